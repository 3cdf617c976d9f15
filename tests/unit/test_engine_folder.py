"""Folders of exported networks: what is not as recorded is not loaded, and an export is written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception.backends.backend import IoSpec, TensorSpec, open_backend
from perception.backends.engine_folder import (
    ENGINE,
    GRAPH,
    RECORD,
    Accuracy,
    EngineRecord,
    check_gpu,
    check_versions,
    is_current,
    new_folder,
    read_record,
    sha256_of,
    verified_file,
    write_record,
)
from perception.core.errors import ConfigError, WeightsError

SPEC = IoSpec((TensorSpec("image", torch.float32, (None, 3, 8, 8)),), (TensorSpec("tokens", torch.bfloat16, (None, 4, 2, 2)),))


def record_of(folder: Path, **changes: object) -> EngineRecord:
    files = {path.name: sha256_of(path) for path in folder.iterdir() if path.name != RECORD}
    values = {"key": "k", "weights": "w", "model": "net", "backend": "tensorrt", "precision": "fp16", "image_size": (8, 8), "max_batch": 4}
    values |= {"io_spec": SPEC, "normalisation": "none", "dim": 4, "stride_px": 4, "offset_px": 1.5, "files": files}
    values |= {"versions": {"tensorrt": "11.4.0"}, "accuracy": Accuracy(0.1, 0.01, 0.99, 0.999, 2, "nobody"), "gpu": "NVIDIA H200, SM90"}
    return EngineRecord(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "net"
    path.mkdir()
    (path / GRAPH).write_bytes(b"graph")
    (path / ENGINE).write_bytes(b"engine")
    write_record(path, record_of(path))
    return path


def test_a_record_reads_back_as_it_was_written(folder: Path) -> None:
    assert read_record(folder) == record_of(folder)
    rtx = record_of(folder, gpu="", targets=("SM86", "SM89"), timings={"graph_s": 1.5})
    write_record(folder, rtx)
    assert read_record(folder) == rtx


def test_a_changed_missing_or_unlisted_file_is_not_given_out(folder: Path) -> None:
    record = read_record(folder)
    assert verified_file(folder, record, ENGINE) == folder / ENGINE
    assert is_current(folder, "k")
    assert not is_current(folder, "another key")
    (folder / ENGINE).write_bytes(b"enginE")
    with pytest.raises(WeightsError, match=r"model.engine: sha256 .* is not the recorded .*: changed since it was exported, not loaded"):
        verified_file(folder, record, ENGINE)
    assert not is_current(folder, "k")
    (folder / ENGINE).unlink()
    with pytest.raises(WeightsError, match=r"model.engine: cannot be read"):
        verified_file(folder, record, ENGINE)
    with pytest.raises(WeightsError, match=r"has no model.xml; it has model.engine, model.onnx"):
        verified_file(folder, record, "model.xml")


def test_another_version_or_gpu_is_named(folder: Path) -> None:
    record = read_record(folder)
    check_versions(folder, record, {"tensorrt": "11.4.0"})
    with pytest.raises(WeightsError, match=r"built with tensorrt 11.4.0, this machine has 10.3.0: not loaded"):
        check_versions(folder, record, {"tensorrt": "10.3.0"})
    check_gpu(folder, record, "NVIDIA H200, SM90", "SM90")
    with pytest.raises(WeightsError, match="built for NVIDIA H200, SM90, this machine has NVIDIA H100, SM90: not loaded"):
        check_gpu(folder, record, "NVIDIA H100, SM90", "SM90")
    rtx = replace(record, gpu="", targets=("SM86", "SM89"))
    check_gpu(folder, rtx, "NVIDIA RTX 4090, SM89", "SM89")
    with pytest.raises(WeightsError, match="built for a GPU of SM86, SM89, this machine has no GPU"):
        check_gpu(folder, rtx, "", "")
    check_gpu(folder, replace(record, gpu=""), "", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read.*a folder written by `perception export` has it"),
        ("{", "not JSON"),
        ("[]", "format None, this version of perception reads 1"),
        ('{"format": 2}', "format 2, this version of perception reads 1"),
        ('{"format": 1}', "damaged"),
    ],
)
def test_a_damaged_record_is_one_sentence(folder: Path, content: str | None, message: str) -> None:
    (folder / RECORD).unlink()
    if content is not None:
        (folder / RECORD).write_text(content)
    with pytest.raises(WeightsError, match=message):
        read_record(folder)
    assert not is_current(folder, "k")


def test_unknown_number_types_and_entries_are_damage(folder: Path) -> None:
    content = json.loads((folder / RECORD).read_text())
    content["io_spec"]["inputs"][0]["dtype"] = "float33"
    (folder / RECORD).write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="damaged"):
        read_record(folder)


def test_a_failed_export_leaves_what_was_there(folder: Path) -> None:
    def fill_and_fail() -> None:
        with new_folder(folder) as partial:
            (partial / GRAPH).write_bytes(b"new")
            raise WeightsError("refused")

    with pytest.raises(WeightsError, match="refused"):
        fill_and_fail()
    assert (folder / GRAPH).read_bytes() == b"graph"
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_a_new_export_takes_the_place_of_the_old_and_of_nothing_else(folder: Path, tmp_path: Path) -> None:
    with new_folder(folder) as partial:
        (partial / GRAPH).write_bytes(b"new")
    assert [path.name for path in folder.iterdir()] == [GRAPH]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="photos: exists and is no folder of `perception export`"), new_folder(photos):
        pass
    assert (photos / "holiday.jpg").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot be written \(.*\); give another --out"), new_folder(tmp_path / "file" / "net"):
        pass


def test_engines_that_do_not_match_are_refused_before_anything_is_loaded(folder: Path) -> None:
    """Without the library, too: the hash comes first."""
    (folder / ENGINE).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="changed since it was exported, not loaded"):
        open_backend("tensorrt", folder)
    write_record(folder, replace(read_record(folder), backend="openvino"))
    with pytest.raises(WeightsError, match="was exported for backend openvino"):
        open_backend("tensorrt", folder)
