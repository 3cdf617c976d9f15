"""Both backends on one small network: equal outputs, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception.backends import onnx_export
from perception.backends.backend import BackendOptions, IoSpec, TensorSpec, open_backend
from perception.backends.onnx_export import compare, cosines, export_key, export_onnx, graph_files
from perception.core.errors import ConfigError, InputError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.registry import create_extractor

SPEC = IoSpec((TensorSpec("image", torch.float32, (1, 3, 8, 10)),), (TensorSpec("tokens", torch.float32, (1, 4, None, None)),))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.GELU()).eval()


@pytest.fixture(scope="module")
def example() -> torch.Tensor:
    return torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph(module: nn.Module, example: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "net.onnx"
    agreement = export_onnx(module, [example], path)
    assert agreement.max_error < 1e-5
    assert agreement.min_cosine > 0.99999
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]
    return path


def test_both_backends_agree(module: nn.Module, example: torch.Tensor, graph: Path) -> None:
    plain = open_backend("torch", module, BackendOptions(io_spec=SPEC))
    exported = open_backend("onnxruntime", graph)
    assert exported.io_spec.inputs == SPEC.inputs
    assert exported.io_spec.outputs[0].shape == (1, 4, 4, 5)
    other = torch.rand(1, 3, 8, 10)
    agreement = compare(exported.run({"image": other})["tokens"], plain.run({"image": other})["tokens"])
    assert agreement.max_error < 1e-5
    for backend in (plain, exported):
        backend.close()
        with pytest.raises(InputError, match="closed"):
            backend.run({"image": other})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_one_graph_for_all_sizes_is_fixed_when_it_is_opened(name: str, module: nn.Module, example: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip(name)
    export_onnx(module, [example, torch.rand(2, 3, 6, 4)], tmp_path / "net.onnx")
    for shape in ((1, 3, 14, 2), (3, 3, 2, 10)):
        backend = open_backend(name, tmp_path / "net.onnx", BackendOptions(input_shape=shape))
        assert backend.io_spec.inputs[0].shape == shape
        assert backend.io_spec.outputs[0].shape == (shape[0], 4, shape[2] // 2, shape[3] // 2)
        image = torch.rand(*shape)
        assert compare(backend.run({"image": image})["tokens"], module(image)).max_error < 1e-5
        with pytest.raises(InputError, match="must be image"):
            backend.run({"image": example})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_weights_that_are_too_large_for_a_graph_lie_beside_it(
    name: str, example: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_LARGEST_FILE_BYTES", 0)
    module = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 3)).eval()
    path = tmp_path / "large.onnx"
    export_onnx(module, [example], path)
    assert [file.name for file in graph_files(path)] == ["large.onnx", "large.onnx.data"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    backend = open_backend(name, path, BackendOptions())
    with torch.inference_mode():
        assert compare(backend.run({"image": example})["tokens"], module(example)).max_error < 1e-5
    backend.close()


@pytest.mark.parametrize("bakes", ["a number", "a shape"])
def test_a_graph_that_holds_a_size_is_not_written_as_one_for_all(bakes: str, example: torch.Tensor, tmp_path: Path) -> None:
    class Sized(nn.Module):
        """Divides by its height, or adds a map of the size it was exported for."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image / image.shape[2] if bakes == "a number" else image + torch.ones(image.shape[2:])

    with pytest.raises(WeightsError, match=r"differs from torch by|onnxruntime cannot (load|run) it"):
        export_onnx(Sized(), [example, torch.rand(2, 3, 6, 4)], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_wrong_inputs_are_named(name: str, module: nn.Module, graph: Path) -> None:
    backend = open_backend(name, module if name == "torch" else graph, BackendOptions(io_spec=SPEC))
    wanted = r"must be image \(1, 3, 8, 10\) float32"
    with pytest.raises(InputError, match=rf"input image has shape \(1, 3, 8, 11\).*{wanted}"):
        backend.run({"image": torch.zeros(1, 3, 8, 11)})
    with pytest.raises(InputError, match=rf"type torch.float64.*{wanted}"):
        backend.run({"image": torch.zeros(1, 3, 8, 10, dtype=torch.float64)})
    with pytest.raises(InputError, match=r"inputs \['picture'\]: must be \['image'\]"):
        backend.run({"picture": torch.zeros(1, 3, 8, 10)})


def test_missing_damaged_and_misused_graphs(tmp_path: Path, module: nn.Module) -> None:
    with pytest.raises(WeightsError, match=r"absent.onnx: no such file"):
        open_backend("onnxruntime", tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match=r"bad.onnx: onnxruntime cannot load it"):
        open_backend("onnxruntime", tmp_path / "bad.onnx")
    with pytest.raises(InputError, match="must be a torch module"):
        open_backend("torch", tmp_path)
    with pytest.raises(InputError, match="io_spec must say"):
        open_backend("torch", module)
    with pytest.raises(ConfigError, match="backend = 'tflite': unknown; known: onnxruntime, openvino"):
        open_backend("tflite", module)


def test_zeros_equal_zeros_and_nothing_else() -> None:
    a, b = torch.ones(1, 3, 4), torch.ones(1, 3, 4)
    a[..., 1] = b[..., 1] = a[..., 2] = b[..., 3] = 0
    assert cosines(a, b)[0].tolist() == pytest.approx([1, 1, 0, 0])
    a[0, 0, 1] = float("nan")
    assert not compare(a, b).min_cosine >= 0


def test_a_graph_that_differs_is_not_written(example: torch.Tensor, tmp_path: Path) -> None:
    class DifferentWhenTraced(nn.Module):
        """Stands for an operator that the exporter translates wrongly."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * (2.0 if torch.compiler.is_exporting() else 1.0)

    with pytest.raises(WeightsError, match="differs from torch by"):
        export_onnx(DifferentWhenTraced(), [example], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_export_key_changes_with_weights_and_size(module: nn.Module, example: torch.Tensor) -> None:
    keys = {export_key(module, "a", [example]), export_key(module, "b", [example]), export_key(module, "a", [example[..., :8]])}
    changed = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.GELU())
    assert len(keys | {export_key(changed, "a", [example])}) == 4
    assert export_key(module, "a", [example]) in keys
    assert export_key(module, "a", [example, example[..., :8]]) not in keys


@pytest.mark.parametrize(("name", "stride_px"), [("tiny_dinov2", 7), ("tiny_dinov3", 0)])
def test_exported_extractor_equals_torch(name: str, stride_px: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are folded for the padded grid; a second extractor takes the graph from the cache."""
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    settings = {"extractor": name, "stride_px": stride_px, "device": "cpu"}
    expected, grid = create_extractor(ExtractorConfig(precision="float32", **settings)).extract(image)  # type: ignore[arg-type]
    for _ in range(2):
        actual, exported_grid = create_extractor(ExtractorConfig(backend="onnxruntime", **settings)).extract(image)  # type: ignore[arg-type]
        assert exported_grid == grid
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
        monkeypatch.setattr("perception.backends.onnx_export.export_onnx", None)
    with pytest.raises(ConfigError, match="precision = 'bfloat16': backend onnxruntime takes"):
        create_extractor(ExtractorConfig(backend="onnxruntime", precision="bfloat16", **settings))  # type: ignore[arg-type]
