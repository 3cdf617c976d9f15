"""What `backend: auto` takes: the fastest accurate row of this machine, and torch where there is none."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.backends import machine
from perception.core.errors import ConfigError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.graph_backends import auto_precision
from perception.models.measurements import Measurement, fastest, measurements_path, read_measurements, store_measurements
from perception.models.network_extractor import NetworkExtractor
from perception.models.registry import create_extractor

MODEL = "tiny_dinov2(layer=-1)"
ROW = Measurement(
    MODEL, 14, "cpu", "torch", "float32", 480, 640, 1, num_threads=2, median_ms=10, p95_ms=11, processor_ms=10,
    frames_per_s=100, peak_memory_mib=1, flops=1,
    matrix_share=0.5, bytes_per_s=1, memory_share=0.1, min_cosine=1.0, mean_cosine=1.0, max_error=0.0,
)  # fmt: skip
EXACT = replace(ROW, backend="openvino", precision="float32", median_ms=5)
HALF = replace(ROW, backend="openvino", precision="bfloat16", median_ms=3, min_cosine=0.9995)
COARSE = replace(ROW, backend="openvino", precision="int8", median_ms=1, min_cosine=0.99)
SIZE = (480, 640)
IMAGE = np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    return tmp_path


def extractor(**settings: str) -> NetworkExtractor:
    made = create_extractor(ExtractorConfig(extractor="tiny_dinov2", device="cpu", **settings))  # type: ignore[arg-type]
    assert isinstance(made, NetworkExtractor)
    return made


def test_the_fastest_accurate_way_is_taken() -> None:
    rows = [ROW, EXACT, HALF, COARSE]
    assert fastest(rows, MODEL, 14, "cpu", SIZE) is HALF
    assert fastest(rows, MODEL, 14, "cpu", SIZE, "float32") is EXACT
    assert fastest(rows, MODEL, 14, "cpu", SIZE, "int8") is COARSE, "who asks for int8 gets it"
    assert fastest([COARSE], MODEL, 14, "cpu", SIZE) is None


@pytest.mark.parametrize("change", [{"model": "nano"}, {"stride_px": 7}, {"device": "cuda"}, {"batch": 8}, {"height": 100, "width": 100}])
def test_rows_of_something_else_do_not_count(change: dict[str, object]) -> None:
    assert fastest([replace(ROW, **change)], MODEL, 14, "cpu", SIZE) is None  # type: ignore[arg-type]


def test_the_nearest_size_decides() -> None:
    small = replace(HALF, height=360, width=480)
    rows = [ROW, small]
    assert fastest(rows, MODEL, 14, "cpu", (470, 640)) is ROW
    assert fastest(rows, MODEL, 14, "cpu", (350, 480)) is small


def test_rows_of_one_size_come_from_one_run() -> None:
    store_measurements([ROW, EXACT])
    store_measurements([replace(ROW, height=96, width=128)])
    store_measurements([HALF])
    assert {(row.height, row.backend) for row in read_measurements()} == {(480, "openvino"), (96, "torch")}


def test_another_library_version_forgets_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    store_measurements([ROW])
    here = machine.this_machine()
    other = replace(here, versions={**here.versions, "openvino": "1.0"})
    assert measurements_path(other) != measurements_path(here)
    assert read_measurements(measurements_path(other)) == []
    assert measurements_path(replace(here, gpu="NVIDIA H200, SM90")) != measurements_path(here)


def test_auto_runs_what_was_measured_and_torch_without_a_measurement() -> None:
    plain = extractor()
    expected, _ = plain.extract(IMAGE)
    assert plain.runs_on == f"torch {auto_precision('torch', torch.device('cpu'))}"
    store_measurements([replace(row, height=56, width=70) for row in (ROW, EXACT)])
    measured = extractor()
    descriptors, _ = measured.extract(IMAGE)
    assert measured.runs_on == "openvino float32"
    assert float(torch.cosine_similarity(descriptors, expected, dim=0).min()) > 0.999


def test_auto_goes_on_with_torch_when_a_graph_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    store_measurements([replace(COARSE, height=56, width=70, min_cosine=0.9999)])
    made = extractor()
    with caplog.at_level(logging.WARNING):
        made.extract(IMAGE)
    assert made.runs_on.startswith("torch ")
    assert "perception bench MODEL --calibrate BAG" in caplog.text
    with pytest.raises(WeightsError, match="no such graph"):
        extractor(precision="int8").extract(IMAGE)


def test_a_damaged_file_and_an_unwritable_cache_say_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_measurements([ROW])
    path.write_text('{"rows": [{"model": 1}]}')
    with pytest.raises(WeightsError, match=r"damaged .*remove it and run `perception bench` again"):
        read_measurements()
    (cache / "file").write_text("")
    monkeypatch.setenv("PERCEPTION_CACHE", str(cache / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written .*set PERCEPTION_CACHE"):
        store_measurements([ROW])
