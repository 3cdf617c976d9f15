"""OpenVINO in float32 and bfloat16, and int8 graphs: as exact as they say, and nothing loaded that does not match its record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from perception.backends.backend import BackendOptions, open_backend
from perception.backends.onnx_export import compare, export_onnx, write_graph
from perception.backends.quantisation import MIN_IMAGES, _products, quantise, read_quantised, record_path
from perception.core.errors import ConfigError, InputError, WeightsError
from perception.models.nano.gradient_layouts import GradientLayouts

pytest.importorskip("openvino")


def images(count: int, side: int = 24) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(1, 3, side, side, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 4, stride=4), nn.GELU(), nn.Conv2d(16, 32, 1), nn.GELU(), nn.Conv2d(32, 16, 3, padding=1)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graph(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "net.onnx"
    write_graph(network, {"image": images(1)[0]}, path)
    return path


@pytest.mark.parametrize(("dtype", "largest_error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_openvino_equals_torch(network: nn.Module, graph: Path, dtype: torch.dtype, largest_error: float) -> None:
    backend = open_backend("openvino", graph, BackendOptions(dtype=dtype))
    assert str(backend.io_spec.inputs[0]) == "image (1, 3, 24, 24) float32"
    for image in images(3):
        assert compare(backend.run({"image": image})["tokens"], network(image)).max_error < largest_error
    backend.close()
    with pytest.raises(InputError, match="closed"):
        backend.run({"image": images(1)[0]})


@pytest.mark.parametrize(("dtype", "largest_error"), [(torch.float32, 0.0), (torch.bfloat16, 2**-8)])
def test_descriptors_are_the_same_channels_last(graph: Path, dtype: torch.dtype, largest_error: float) -> None:
    """In bfloat16 they are rounded to it at the end, and the steps since the last product too."""
    image = images(1)[0]
    plain = open_backend("openvino", graph, BackendOptions(dtype=dtype))
    last = open_backend("openvino", graph, BackendOptions(dtype=dtype, are_descriptors=True))
    assert last.io_spec == plain.io_spec
    expected, found = plain.run({"image": image})["tokens"], last.run({"image": image})["tokens"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert compare(found, expected).max_share <= largest_error
    assert last.run({"image": images(2)[1]})["tokens"].data_ptr() == found.data_ptr()


def test_descriptors_of_any_size_are_in_the_order_of_the_graph(network: nn.Module, tmp_path: Path) -> None:
    export_onnx(network, [images(1)[0], torch.rand(2, 3, 12, 16)], tmp_path / "net.onnx")
    backend = open_backend("openvino", tmp_path / "net.onnx", BackendOptions(are_descriptors=True))
    for shape in ((1, 3, 16, 24), (2, 3, 8, 4)):
        image = torch.rand(*shape)
        assert compare(backend.run({"image": image})["tokens"], network(image)).max_error < 1e-5


def test_outputs_lie_in_the_same_memory_in_every_run(graph: Path) -> None:
    backend = open_backend("openvino", graph)
    first = backend.run({"image": images(1)[0]})["tokens"]
    assert backend.run({"image": images(2)[1]})["tokens"].data_ptr() == first.data_ptr()


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from perception.backends.backend import open_backend
first, second = (open_backend("openvino", Path(sys.argv[1])) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_that_closed_its_graphs_still_handles_signals(graph: Path) -> None:
    """As one that is interrupted, or whose child ends, must."""
    run = subprocess.run([sys.executable, "-c", SIGNALLED, str(graph)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_what_openvino_cannot_run_is_named(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent.onnx: no such file"):
        open_backend("openvino", tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match=r"bad.onnx: OpenVINO cannot load it"):
        open_backend("openvino", tmp_path / "bad.onnx")
    with pytest.raises(ConfigError, match="device = 'cuda': backend openvino runs on the cpu only"):
        open_backend("openvino", graph, BackendOptions(device=torch.device("cuda")))
    with pytest.raises(ConfigError, match="precision = 'float16'"):
        open_backend("openvino", graph, BackendOptions(dtype=torch.float16))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_int8_graph_is_as_exact_as_its_record_says(network: nn.Module, graph: Path, tmp_path: Path, runtime: str) -> None:
    path = tmp_path / "int8.onnx"
    record = quantise(graph, images(8), path, min_cosine=0.98)
    assert record == read_quantised(path)
    assert record.num_int8 == record.num_products == 3
    assert 0.98 <= record.min_cosine <= record.mean_cosine < 1
    backend = open_backend(runtime, path)
    worst = min(compare(backend.run({"image": image})["tokens"], network(image)).min_cosine for image in images(8)[3::4])
    assert abs(worst - record.min_cosine) < 5e-3, "the cosine of the record is that of the images held out"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_int8_graph_for_all_sizes_runs_at_those_it_was_not_calibrated_on(network: nn.Module, tmp_path: Path, runtime: str) -> None:
    free, path = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    export_onnx(network, [images(1)[0], torch.rand(2, 3, 12, 16)], free)
    record = quantise(free, images(8), path, min_cosine=0.98)
    assert record.num_int8 == 3
    other = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(5))
    backend = open_backend(runtime, path, BackendOptions(input_shape=tuple(other.shape)))
    assert compare(backend.run({"image": other})["tokens"], network(other)).min_cosine > 0.97


def test_work_of_products_is_counted_for_the_size_of_the_images(network: nn.Module, graph: Path, tmp_path: Path) -> None:
    """It decides which products stay float."""
    export_onnx(network, [images(1)[0], torch.rand(2, 3, 12, 16)], tmp_path / "net.onnx")
    assert list(_products(tmp_path / "net.onnx", (1, 3, 24, 24)).values()) == list(_products(graph, (1, 3, 24, 24)).values())
    assert list(_products(graph, (1, 3, 24, 24)).values()) == [36 * 16 * 3 * 4 * 4, 36 * 32 * 16, 36 * 16 * 32 * 3 * 3]


def test_a_product_that_int8_would_spoil_stays_float(tmp_path: Path) -> None:
    class Spoilt(nn.Module):
        """One value is a thousand times as large as the others, which rounding to 8 bits would wipe out."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.plain, self.spoilt = nn.Conv2d(3, 64, 4, stride=4), nn.Conv2d(64, 16, 1)
            self.register_buffer("gain", torch.cat((torch.full((1, 1, 1), 1e3), torch.ones(63, 1, 1))))
            with torch.no_grad():
                self.spoilt.weight[:, 0] = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.spoilt(torch.nn.functional.gelu(self.plain(image)) * self.gain)

    network = Spoilt().eval().requires_grad_(False)
    graph, path = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    write_graph(network, {"image": images(1)[0]}, graph)
    record = quantise(graph, images(8), path, min_cosine=0.99)
    assert (record.num_int8, record.num_products) == (1, 2)
    assert record.min_cosine >= 0.99


def test_too_few_images_and_hopeless_accuracy_are_said(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"calibration: 3 images: must be at least {MIN_IMAGES}"):
        quantise(graph, images(3), tmp_path / "int8.onnx")
    with pytest.raises(WeightsError, match=r"no product can be in int8 .*use precision bf16"):
        quantise(graph, images(4), tmp_path / "int8.onnx", min_cosine=1.1)
    assert not list(tmp_path.iterdir())


def test_a_changed_graph_is_not_loaded(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantise(graph, images(4), path, min_cosine=0.9)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match=r"is not the recorded .*not loaded"):
        read_quantised(path)
    record_path(path).unlink()
    with pytest.raises(WeightsError, match="no such graph or record"):
        read_quantised(path)


def test_faint_gradients_of_nano_survive_bfloat16(tmp_path: Path) -> None:
    """OpenVINO rounds every value to 8 bits; grey values rounded so would hide a gradient of one level in bright places."""

    class Energies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layouts = GradientLayouts(bins=8, levels=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layouts._energies(image)

    module = Energies().eval()
    ramp = torch.arange(32).repeat(1, 3, 32, 1).float()
    image = ((200 + ramp + 0.3 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))) / 255).contiguous()
    write_graph(module, {"image": image}, tmp_path / "energies.onnx")
    backend = open_backend("openvino", tmp_path / "energies.onnx", BackendOptions(dtype=torch.bfloat16))
    assert compare(backend.run({"image": image})["tokens"], module(image)).min_cosine > 0.9995
