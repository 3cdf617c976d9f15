"""`backend: auto` without a measurement: torch at once, and a graph beside it as soon as it pays, when it gives the same descriptors."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.backends.engine_folder import Accuracy
from perception.core.errors import WeightsError
from perception.models import background_build
from perception.models.background_build import EXPECTED, BuiltGraph, ExpectedWay, build, built_engine, expected_way, network_identity, read_built
from perception.models.extractor import ExtractorConfig
from perception.models.nano import NanoNetwork, write_nano
from perception.models.network_extractor import NetworkExtractor
from perception.models.registry import create_extractor
from perception.pipelines.dense_features import DenseFeaturesConfig

CPU = torch.device("cpu")
CONFIG = ExtractorConfig(extractor="tiny_nano", device="cpu")
WAY = ExpectedWay("openvino", "float32", 1e9)
IMAGES = [np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 96), (16, 16), (48, 208))]
IMAGE = IMAGES[0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    monkeypatch.setattr("perception.models.network_extractor.expected_way", lambda *_: WAY)
    return tmp_path


def extractor(**settings: str) -> NetworkExtractor:
    made = create_extractor(dataclasses.replace(CONFIG, **settings))  # type: ignore[arg-type]
    assert isinstance(made, NetworkExtractor)
    return made


def identity() -> str:
    network = extractor().network
    assert isinstance(network, torch.nn.Module)
    return network_identity(network, "tiny_nano")


def record_of(size: tuple[int, int] = (64, 96)) -> Path:
    return background_build._record_path(background_build._key(identity(), WAY, size))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BuiltGraph]]:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERCEPTION_CACHE", str(folder))
        return folder, build(CONFIG, WAY, identity(), IMAGES)


@pytest.fixture
def built(made: tuple[Path, list[BuiltGraph]], cache: Path) -> list[BuiltGraph]:
    """What an earlier process left in the cache for the three images."""
    shutil.copytree(made[0], cache, dirs_exist_ok=True)
    return made[1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("avx2", "avx512f", "avx512_bf16", "amx_bf16"), ("openvino", "bfloat16")),
        (("avx2", "avx512f", "avx512_bf16"), ("openvino", "bfloat16")),
        (("avx2",), ("openvino", "float32")),
        (("asimd", "bf16"), None),
        ((), None),
    ],
)
def test_the_expected_way_follows_the_processor(flags: tuple[str, ...], expected: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_build, "processor", lambda: ("a processor", flags))
    way = expected_way(CPU)
    assert (None if way is None else (way.backend, way.precision)) == expected
    assert expected_way(CPU, "float16") is None
    monkeypatch.setattr(background_build, "why_not", lambda *_: "not installed")
    assert expected_way(CPU) is None
    assert all(way.gain > 1 for _, way in EXPECTED)


def test_few_images_never_start_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_build.subprocess, "Popen", None)
    made = extractor()
    for _ in range(3):
        made.extract(IMAGE)
    assert made.runs_on.startswith("torch ")


def test_what_was_built_is_taken_by_the_next_process_and_gives_the_same(built: list[BuiltGraph]) -> None:
    plain = extractor()
    expected, _ = plain.extract(IMAGE)
    assert built[0].min_cosine > 0.999
    assert read_built(record_of()) == built[0]
    later = extractor()
    found, _ = later.extract(IMAGE)
    assert later.runs_on == "openvino float32"
    assert float(torch.cosine_similarity(found, expected, dim=0).min()) > 0.999
    later.extract(IMAGE[:32, :64])
    assert extractor(backend="torch", precision="float32").runs_on == "torch float32"


def test_a_graph_that_differs_or_was_changed_is_not_taken(built: list[BuiltGraph], caplog: pytest.LogCaptureFixture) -> None:
    record = record_of()
    for change in ({"min_cosine": 0.99}, {"min_cosine": float("nan")}, {"sha256": "0" * 64}):
        record.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(built[0], **change))))  # type: ignore[arg-type]
        made = extractor()
        made.extract(IMAGE)
        assert made.runs_on.startswith("torch ")
    assert "was changed since it was made; not loaded" in caplog.text
    assert not record.exists(), "so that it is made again"


def test_one_graph_serves_all_sizes_of_a_network_that_does_not_depend_on_them(built: list[BuiltGraph], cache: Path) -> None:
    assert len({(one.graph, one.sha256) for one in built}) == 1
    assert [file.suffix for file in sorted((cache / "graphs").iterdir())].count(".onnx") == 1
    plain, later = extractor(backend="torch", precision="float32"), extractor()
    for picture in IMAGES:
        expected, found = plain.extract(picture)[0], later.extract(picture)[0]
        assert later.runs_on == "openvino float32"
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_sizes_that_lost_little_each_get_their_graphs_together_and_later_ones_soon(
    built: list[BuiltGraph], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is run here, on the spot; of what the cache had it finds the graph."""
    for record in (cache / "graphs").glob("auto-*.json"):
        record.unlink()

    class Process:
        returncode = 0

        def __init__(self, command: list[str], **_: object) -> None:
            jobs.append(json.loads((Path(command[-1]) / "job.json").read_text())["num_images"])
            background_build.main(Path(command[-1]))

        def poll(self) -> int:
            return self.returncode

    jobs: list[int] = []
    monkeypatch.setattr(background_build.subprocess, "Popen", Process)
    monkeypatch.setattr(background_build.os, "nice", lambda _: 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    watch = background_build.BackgroundBuild(identity(), "tiny_nano", CONFIG, WAY, any_size=True)
    sizes, share = ((64, 96), (32, 48), (48, 48)), background_build.BUILD_S / 4
    picture = {size: np.ascontiguousarray(IMAGE[: size[0], : size[1]]) for size in (*sizes, (16, 32))}
    for _ in range(2):
        for size in sizes[:2]:
            assert watch.after(size, share, picture[size]) is None
    assert jobs == []
    assert watch.after(sizes[2], share, picture[sizes[2]]) is None
    assert jobs == [3], "all that wait, in one process"
    assert all(watch.after(size, 0.0, picture[size]) is not None for size in sizes)
    assert watch.after((16, 32), background_build.CHECK_S + 0.1, picture[16, 32]) is None
    assert jobs == [3, 1], "the graph is there, so that less time must have been lost"
    assert watch.after((16, 32), 0.0, picture[16, 32]) is not None


def test_a_size_for_which_the_graph_differs_is_left_to_torch(built: list[BuiltGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_build, "MIN_COSINE", 1.1)
    monkeypatch.setattr(background_build.subprocess, "Popen", None)
    watch = background_build.BackgroundBuild(identity(), "tiny_nano", CONFIG, WAY, any_size=True)
    for _ in range(3):
        assert watch.after((64, 96), 2 * background_build.BUILD_S, IMAGE) is None


def test_other_weights_are_another_network() -> None:
    network = extractor().network
    assert isinstance(network, torch.nn.Module)
    before = network_identity(network, "tiny_nano")
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)
    assert network_identity(network, "tiny_nano") != before
    with pytest.raises(WeightsError, match="weights or libraries changed since this process began"):
        build(CONFIG, WAY, "another", [IMAGE])


def test_a_build_that_fails_is_said_once_and_torch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(background_build, "BUILD_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(background_build, "__name__", "perception.no_such_module")
    made = extractor()
    deadline = time.monotonic() + 30
    while "was not made" not in caplog.text and time.monotonic() < deadline:
        made.extract(IMAGE)
    assert "openvino float32 was not made" in caplog.text
    assert "No module named perception.no_such_module" in caplog.text
    assert made.runs_on.startswith("torch ")
    assert not list(tmp_path.iterdir()), "the folder of the job is removed"


@pytest.mark.slow
def test_a_process_in_the_background_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(background_build, "BUILD_S", 0.0)
    network = extractor().network  # its random weights differ in the last bit from process to process, a file's do not
    assert isinstance(network, NanoNetwork)
    write_nano(tmp_path / "tiny.safetensors", network.config, network.state_dict())
    made = create_extractor(DenseFeaturesConfig(extractor="tiny_nano", weights=str(tmp_path / "tiny.safetensors"), device="cpu"))  # as pipelines do
    assert isinstance(made, NetworkExtractor)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(jobs))
    deadline = time.monotonic() + 120
    with caplog.at_level(logging.INFO):
        expected, _ = made.extract(IMAGE)
        while made.runs_on.startswith("torch ") and time.monotonic() < deadline:
            time.sleep(0.2)
            made.extract(IMAGE)
    assert made.runs_on == "openvino float32", caplog.text
    assert "making its graph in the background" in caplog.text
    found, _ = made.extract(IMAGE)
    assert float(torch.cosine_similarity(found, expected, dim=0).min()) > 0.998
    while list(jobs.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(jobs.iterdir()), "the folder of the job is removed"


def test_exact_engines_are_found_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(folder: Path) -> object:
        if "tensorrt_rtx" not in folder.name:
            raise WeightsError("none")
        exact = Accuracy(0.0, 0.0, 0.99 if "fp16" in folder.name else 0.9999, 1.0, 1, "")
        return type("Record", (), {"accuracy": exact})

    monkeypatch.setattr(background_build, "read_record", record)
    assert built_engine("nano", torch.device("cuda"), (480, 640), "auto") == ("tensorrt_rtx", "bfloat16")
    assert built_engine("nano", torch.device("cuda"), (480, 640), "float16") is None
    assert built_engine("nano", CPU, (480, 640), "auto") is None


def test_the_process_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_build.os, "nice", lambda _: 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    job = {"config": dataclasses.asdict(CONFIG), "way": dataclasses.asdict(WAY), "identity": "another", "num_images": 1}
    (tmp_path / "job.json").write_text(json.dumps(job))
    np.save(tmp_path / "0.npy", IMAGE)
    assert background_build.main(tmp_path) == 1
    assert "tiny_nano: the weights or libraries changed" in capsys.readouterr().err
