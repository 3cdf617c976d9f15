"""`perception bench` measures what it says and keeps it; `perception doctor` names the command that mends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from perception.backends.machine import Peaks, this_machine
from perception.cli import bench, doctor, doctor_engines
from perception.core.errors import ConfigError
from perception.models import benchmarking
from perception.models.benchmarking import WorkCounter, default_ways, measure
from perception.models.graph_backends import GraphCase
from perception.models.measurements import read_measurements

CPU = torch.device("cpu")


class Toy(nn.Module):
    """A DenseNetwork of one convolution."""

    dim, multiple_px, stride_px, offset_px, any_size = 8, 4, 4, 1.5, True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def prepare(self, height: int, width: int) -> None:
        """Nothing depends on the size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    return tmp_path


def pixels(case: GraphCase) -> torch.Tensor:
    return torch.rand(case.batch, 3, case.height, case.width, generator=torch.Generator().manual_seed(0))


def test_work_is_counted_by_hand() -> None:
    a, b = torch.rand(5, 7), torch.rand(7, 3)
    query = torch.rand(1, 2, 10, 4)
    with torch.inference_mode(), WorkCounter() as matrix:
        a @ b
    with torch.inference_mode(), WorkCounter() as attention:
        nn.functional.scaled_dot_product_attention(query, query, query)
    with torch.inference_mode(), WorkCounter() as convolution:
        nn.functional.gelu(Toy()(torch.rand(1, 3, 8, 12)))
    assert (matrix.operations, matrix.values) == (2 * 5 * 7 * 3, 35 + 21 + 15)
    assert (attention.operations, attention.values) == (2 * (2 * 2 * 10 * 10 * 4), 4 * 80)
    assert convolution.operations == 2 * 6 * 8 * 48
    assert convolution.values == 3 * 96 + 8 * 48 + 8 + 8 * 6


def test_peaks_are_measured() -> None:
    peaks = Peaks(CPU, (torch.float32,))
    peaks.sample()
    assert 1e9 < peaks.matrix_flops()["float32"] < 1e14
    assert 1e8 < peaks.memory_bytes_per_s() < 1e12


def test_a_way_that_cannot_run_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        benchmarking, "Peaks", lambda *_: SimpleNamespace(sample=lambda: None, matrix_flops=lambda: {"float32": 1e9}, memory_bytes_per_s=lambda: 1e9)
    )
    cases = [GraphCase("torch", "float32", 16, 24), GraphCase("torch", "bfloat16", 16, 24), GraphCase("openvino", "int8", 16, 24)]
    network = Toy()
    outcome = measure(network, "toy", cases, pixels, CPU, repeats=3)
    exact, half = outcome.rows
    assert list(outcome.left_out) == ["openvino int8 16x24 batch 1"]
    assert "perception bench MODEL --calibrate BAG" in outcome.left_out["openvino int8 16x24 batch 1"]
    assert (exact.min_cosine, exact.max_error) == (pytest.approx(1, abs=1e-6), 0)
    assert 0.999 < half.min_cosine < 1
    assert exact.flops * exact.median_ms / 1e3 == pytest.approx(2 * 8 * 24 * 48)
    assert exact.matrix_share == pytest.approx(exact.flops / 1e9)
    assert exact.p95_ms >= exact.median_ms > 0
    assert network.conv.weight.dtype == torch.float32, "the network itself stays as it is"


def test_out_of_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmarking.open_case

    def crowded(network: nn.Module, name: str, case: GraphCase, device: torch.device, own_copy: bool) -> object:
        if case.precision == "bfloat16":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, name, case, device, own_copy)

    monkeypatch.setattr(benchmarking, "open_case", crowded)
    outcome = measure(Toy(), "toy", [GraphCase("torch", "float32", 16, 24), GraphCase("torch", "bfloat16", 16, 24)], pixels, CPU, 1)
    assert list(outcome.left_out.values()) == ["does not fit into memory; take a smaller --image-size or --batch"]


def test_engines_are_left_out_without_a_gpu() -> None:
    ways, left_out = default_ways(CPU, compiled=False, int8=True)
    assert ways[0] == ("torch", "float32")
    assert {"tensorrt", "tensorrt_rtx", "torch_compiled"} <= set(left_out)
    assert ("onnxruntime", "int8") in ways


def test_bench_writes_a_table_a_plot_and_what_auto_reads(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cache / "images"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), np.random.default_rng(index).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    monkeypatch.setattr(bench, "_pictures", lambda *_: bench.read_images(str(folder), 4))
    out = cache / "out"
    arguments = bench.Arguments("tiny_nano", image_size=(32, 48), batch=(1, 2), backends=("torch",), repeats=2, out=out)
    assert bench.run(arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads((out / "bench.json").read_text())
    assert content["machine"]["key"] == this_machine().key
    assert {(row["precision"], row["batch"]) for row in content["rows"]} >= {("float32", 1), ("float32", 2)}
    assert all(0 < row["frames_per_s"] < 1e5 and row["peak_memory_mib"] >= 0 for row in content["rows"])
    picture = cv2.imdecode(np.frombuffer((out / "bench.png").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 1000
    assert np.ptp(picture) > 200
    assert len(read_measurements()) == len(content["rows"])
    assert "backend: auto takes torch" in printed
    assert "peaks of this machine" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bench.Arguments("nnao"), "model = 'nnao': unknown; known: .*nano"),
        (bench.Arguments("dense_sift"), "model = 'dense_sift': unknown"),
        (bench.Arguments("tiny_nano", repeats=0), "repeats = 0"),
        (bench.Arguments("tiny_nano", backends=("auto",)), "must be of torch, "),
        (bench.Arguments("tiny_nano", image_size=(30, 48)), "sides must be multiples of .*nearest"),
        (bench.Arguments("tiny_dino", image_size=(64, 64), device="cuda"), "device = 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(arguments: bench.Arguments, message: str) -> None:
    if arguments.device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has what the message is about")
    with pytest.raises(ConfigError, match=message):
        bench.run(arguments)


def no_torch_cuda(monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)


@pytest.mark.parametrize(
    ("driver", "card", "cuda", "mend"),
    [
        ("570.86", True, None, "pip install --force-reinstall torch"),
        ("570.86", True, "13.0", "nvidia-smi"),
        ("", True, "13.0", doctor_engines.DRIVER),
        ("", False, None, "not needed"),
    ],
)
def test_doctor_tells_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, driver: str, card: bool, cuda: str | None, mend: str) -> None:
    no_torch_cuda(monkeypatch, cuda)
    monkeypatch.setattr(doctor_engines, "driver_version", lambda: driver)
    monkeypatch.setattr(doctor_engines, "has_nvidia_card", lambda: card)
    assert doctor_engines.check_gpu().mend.startswith(mend)
    assert doctor_engines.check_driver().verdict == ("ok" if driver else "note")


@pytest.mark.parametrize(("target", "mend"), [((8, 9), "pip install tensorrt-rtx-cu13-bindings"), ((9, 0), "pip install tensorrt (")])
def test_doctor_names_the_tensorrt_of_the_gpu(monkeypatch: pytest.MonkeyPatch, target: tuple[int, int], mend: str) -> None:
    monkeypatch.setattr(doctor_engines, "library_versions", dict)
    monkeypatch.setattr(doctor_engines, "_is_importable", lambda _: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: target)
    finding = doctor_engines.check_tensorrt()
    assert finding.verdict == "note"
    assert finding.mend.startswith(mend)


@pytest.mark.parametrize(
    ("check", "absent", "mend"),
    [
        (doctor_engines.check_export, "onnxscript", "pip install onnxscript"),
        (doctor_engines.check_export, "onnxslim", "pip install onnxslim"),
    ],
)
def test_doctor_installs_only_what_is_absent(monkeypatch: pytest.MonkeyPatch, check: Callable[[], doctor.Finding], absent: str, mend: str) -> None:
    monkeypatch.setattr(doctor_engines, "_is_importable", lambda name: name != absent)
    assert (check().verdict, check().mend) == ("note", mend)


def test_doctor_names_runtime_compiler_cache_and_measurement(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_engines, "library_versions", dict)
    monkeypatch.setattr(doctor_engines.shutil, "which", lambda _: None)
    assert doctor_engines.check_openvino().mend == doctor_engines.OPENVINO
    assert doctor_engines.check_compiler().mend == doctor_engines.COMPILER
    assert doctor_engines.check_cache().verdict == "ok"
    assert doctor_engines.check_measurements().mend == "perception bench MODEL --weights FILE"
    (cache / "file").write_text("")
    monkeypatch.setenv("PERCEPTION_CACHE", str(cache / "file" / "cache"))
    assert doctor_engines.check_cache().verdict == "missing"
    assert "export PERCEPTION_CACHE=" in doctor_engines.check_cache().mend


def test_memory_that_cannot_be_read_is_nan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmarking, "_STATUS", tmp_path / "absent")
    assert math.isnan(benchmarking._status_mib("VmRSS"))
