"""`--calibrate BAG` from end to end, with a bag as the demo renders it: int8 whose accuracy is stated, and which extractors then run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from perception.backends.engine_folder import read_record
from perception.backends.quantisation import read_quantised
from perception.cli.demo_tabletop import write_stream
from perception.cli.main import main
from perception.cli.progress import Steps
from perception.io.bag_messages import IMAGE
from perception.io.bags import BagReader
from perception.models.extractor import ExtractorConfig
from perception.models.registry import create_extractor
from perception.rendering.tabletop import TabletopScene

SIZE = (96, 128)
NUM_FRAMES = 8


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered and written as `perception demo` does, smaller."""
    path = tmp_path_factory.mktemp("calibration") / "bag"
    with Steps().step("render") as step:
        write_stream(TabletopScene(width=SIZE[1], height=SIZE[0], supersampling=1), NUM_FRAMES, path, step)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    return tmp_path


def words(text: str) -> list[str]:
    return [*text.split(), "--image-size", *map(str, SIZE)]


def test_an_export_says_what_it_was_calibrated_on(bag: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cache / "out"
    assert main([*words("export tiny_nano --backend openvino --precision int8 --num-images 6"), "--calibrate", str(bag), "--out", str(out)]) == 0
    accuracy = read_record(out).accuracy
    assert (accuracy.num_images, accuracy.images) == (6, str(bag))
    assert 0.98 < accuracy.mean_cosine < 1
    assert "cosine to torch" in capsys.readouterr().out
    assert read_quantised(out / "model.onnx").num_images == 6


def test_a_bench_calibrates_measures_and_extractors_run_it(bag: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words("bench tiny_nano --repeats 2 --backends openvino"), "--calibrate", str(bag), "--out", str(cache / "bench")]) == 0
    assert "cosine ≥ 0.9" in " ".join(capsys.readouterr().out.split())
    rows = {(row["backend"], row["precision"]): row for row in json.loads((cache / "bench" / "bench.json").read_text())["rows"]}
    assert rows["openvino", "int8"]["min_cosine"] > 0.99
    with BagReader(bag) as reader:
        image = next(iter(reader.frames(reader.find_topics(IMAGE)[0]))).image
    exact, coarse = (
        create_extractor(ExtractorConfig(extractor="tiny_nano", backend=backend, precision=precision, device="cpu"))  # type: ignore[arg-type]
        for backend, precision in (("torch", "float32"), ("openvino", "int8"))
    )
    assert float(torch.cosine_similarity(exact.extract(image)[0], coarse.extract(image)[0], dim=0).mean()) > 0.99


def test_a_bag_of_too_few_images_is_one_sentence(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words("export tiny_nano --backend onnx --precision int8 --num-images 3"), "--calibrate", str(bag)]) == 2
    assert "calibration: 3 images: must be at least 4" in capsys.readouterr().err
