"""Checkpoints: verified download that resumes, and one clear sentence for everything that can be wrong with a file."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from perception.core.errors import WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.weights import WeightSpec, cache_dir, fetch, load_into, resolve_weights, weight_specs

CONTENT = bytes(range(256)) * 64


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; answers an open byte range as large hosts do."""

    ranges: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        path = Path(self.directory) / self.path.lstrip("/")  # type: ignore[arg-type]
        if wanted is None or not path.is_file():
            return super().do_GET()
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        content = path.read_bytes()[start:]
        self.send_response(206 if content else 416)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[WeightSpec]:
    """A file of CONTENT on a local server."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "net.pth").write_bytes(CONTENT)
    RangeHandler.ranges = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(RangeHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = f"http://127.0.0.1:{server.server_port}/net.pth"
    yield WeightSpec("net", source, hashlib.sha256(CONTENT).hexdigest(), "MIT", (0, 0, 0), (1, 1, 1), 1)
    server.shutdown()
    server.server_close()


def test_fetch_verifies_renames_and_uses_the_cache(spec: WeightSpec, tmp_path: Path) -> None:
    path = fetch(spec, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert fetch(replace(spec, source="http://127.0.0.1:9/net.pth"), tmp_path / "cache") == path


def test_fetch_resumes(spec: WeightSpec, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    partial = folder / f"{spec.sha256[:12]}-net.pth.part"
    partial.write_bytes(CONTENT[:1000])
    assert fetch(spec, folder).read_bytes() == CONTENT
    assert RangeHandler.ranges == ["bytes=1000-"]
    fetch(spec, folder).rename(partial)
    assert fetch(spec, folder).read_bytes() == CONTENT


def test_fetch_refuses_another_file(spec: WeightSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights net: .* has sha256 [0-9a-f]{64}, expected 000.*removed"):
        fetch(replace(spec, sha256="0" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(WeightsError, match="answered 404"):
        fetch(replace(spec, source=spec.source.replace("net", "absent")), tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"cannot be reached .* without a network give the path"):
        fetch(replace(spec, source="http://127.0.0.1:9/net.pth"), tmp_path / "cache")


def test_reading_state_dicts(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        found = read_tensors(tmp_path / name)
        assert sorted(found) == ["a", "b"]
        assert torch.equal(found["a"], tensors["a"])


def test_damaged_files(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "whole.pth")
    for name, content in {
        "cut.pth": (tmp_path / "whole.pth").read_bytes()[:300],
        "text.pth": b"<html>",
        "text.safetensors": b"<html></html>",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name}: damaged, or not a plain file of tensors"):
            read_tensors(tmp_path / name)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickle.pth")
    with pytest.raises(WeightsError, match="not a plain file of tensors"):
        read_tensors(tmp_path / "pickle.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds list, must hold named tensors"):
        read_tensors(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="no such file"):
        read_tensors(tmp_path / "absent.pth")


def test_load_into_names_the_first_differences() -> None:
    module = torch.nn.Linear(2, 3)
    load_into(module, {"weight": torch.ones(3, 2)}, "here", optional=("bias",))
    assert module.weight.sum() == 6
    with pytest.raises(
        WeightsError,
        match=r"weights here: .* than Linear \(1 missing: bias; 1 unexpected: scale; 1 other shape: weight \(1, 2\) instead of \(3, 2\)\)",
    ):
        load_into(module, {"weight": torch.ones(1, 2), "scale": torch.ones(1)}, "here")


def test_names_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = weight_specs()
    assert {"alike-t", "alike-n"} <= set(specs)
    assert all(len(spec.sha256) == 64 and spec.licence and spec.source.startswith("https://") for spec in specs.values())
    with pytest.raises(WeightsError, match=r"weights = 'alike': no such file.*known names: .*alike-n"):
        resolve_weights("alike")
    (tmp_path / "bad.yaml").write_text("net: {source: x}")
    with pytest.raises(WeightsError, match=r"bad.yaml: not a list of weights .* each needs source, sha256"):
        weight_specs(tmp_path / "bad.yaml")
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
