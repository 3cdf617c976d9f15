"""Engines run on a GPU: equal to torch, no memory taken for a frame, several contexts on one engine. Each library where it and its GPU are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception.backends.backend import open_backend
from perception.backends.onnx_export import compare
from perception.backends.tensorrt_backend import TensorRtBackend
from perception.backends.tensorrt_build import RTX_TARGETS
from perception.backends.tensorrt_library import compute_target
from perception.core.errors import InputError
from perception.models.export import CheckImages, ExportSettings, export_network
from perception.models.extractor import ExtractorConfig
from perception.models.network_extractor import NetworkExtractor
from perception.models.registry import create_extractor

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
_SIZE = (56, 70)
_MAX_BATCH = 4


def some_images() -> CheckImages:
    rng = np.random.default_rng(0)
    return CheckImages([rng.integers(0, 256, (56, 70, 3), dtype=np.uint8) for _ in range(5)], "noise")


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt" if request.param == "tensorrt" else "tensorrt_rtx_bindings")
    if request.param == "tensorrt_rtx" and compute_target() not in RTX_TARGETS:
        pytest.skip(f"TensorRT-RTX does not serve {compute_target()}")
    path = tmp_path_factory.mktemp("engines") / request.param
    record, _ = export_network(extractor(), ExportSettings(request.param, "fp16", _SIZE, _MAX_BATCH), some_images, path)
    assert record.accuracy.run_by.startswith(request.param)  # the comparison ran the engine itself
    return path


@pytest.fixture
def backend(folder: Path) -> TensorRtBackend:
    opened = open_backend("tensorrt", folder)
    assert isinstance(opened, TensorRtBackend)
    return opened


def extractor() -> NetworkExtractor:
    made = create_extractor(ExtractorConfig(extractor="tiny_dinov2", backend="torch", precision="float32", device="cpu"))
    assert isinstance(made, NetworkExtractor)
    return made


def images_and_descriptors(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(number, 3, *_SIZE, generator=torch.Generator().manual_seed(number))
    network = extractor().network
    network.prepare(*_SIZE)
    with torch.inference_mode():
        return images, network(images)  # type: ignore[operator]


@pytest.mark.parametrize("place", ["host", "pinned", "device", "strided"])
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_equal_to_torch_wherever_the_images_lie(backend: TensorRtBackend, batch: int, place: str) -> None:
    images, expected = images_and_descriptors(batch)
    moved = {
        "host": lambda: images,
        "pinned": images.pin_memory,
        "device": images.cuda,
        "strided": lambda: images.cuda().to(memory_format=torch.channels_last),
    }[place]()
    for _ in range(3):  # set up, captured, replayed
        found = backend.run({"image": moved})["tokens"]
        assert found.is_cuda
        assert compare(found, expected).min_cosine > 0.999


def test_the_device_buffers_can_be_written_directly(backend: TensorRtBackend) -> None:
    images, expected = images_and_descriptors(2)
    buffers = backend.input_buffers(2)
    for _ in range(2):
        buffers["image"].copy_(images)
        assert compare(backend.run(buffers)["tokens"], expected).min_cosine > 0.999


def test_a_frame_takes_no_memory(backend: TensorRtBackend) -> None:
    image = torch.rand(1, 3, *_SIZE)
    first = backend.run({"image": image})["tokens"].data_ptr()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(20):
        assert backend.run({"image": image})["tokens"].data_ptr() == first
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_frames_in_quick_succession_are_not_mixed_up(backend: TensorRtBackend) -> None:
    """The pinned buffer of the last frame is not overwritten while it is on its way."""
    images, expected = images_and_descriptors(4)
    found = [backend.run({"image": image[None]})["tokens"].clone() for image in images]
    assert compare(torch.cat(found), expected).min_cosine > 0.999


def test_siblings_share_the_engine_and_nothing_else(backend: TensorRtBackend) -> None:
    images, expected = images_and_descriptors(2)
    other = backend.sibling()
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    results = []
    for camera, stream, image in zip((backend, other), streams, images, strict=True):
        with torch.cuda.stream(stream):
            results.append(camera.run({"image": image[None].cuda()})["tokens"])
    torch.cuda.synchronize()
    assert compare(torch.cat(results), expected).min_cosine > 0.999
    other.close()
    with pytest.raises(InputError, match="closed"):
        other.run({"image": images[:1]})
    assert compare(backend.run({"image": images[:1]})["tokens"], expected[:1]).min_cosine > 0.999


def test_too_many_images_are_one_sentence(backend: TensorRtBackend) -> None:
    with pytest.raises(InputError, match="5 images at once: must be 1 to 4; export with --max-batch"):
        backend.run({"image": torch.zeros(5, 3, *_SIZE)})


def test_compiled_kernels_are_kept_for_the_next_start(backend: TensorRtBackend, folder: Path) -> None:
    if backend._open().library.name != "tensorrt_rtx":
        pytest.skip("TensorRT compiles when it builds")
    backend.run({"image": torch.rand(1, 3, *_SIZE)})
    (kept,) = folder.glob("runtime-*.cache")
    size = kept.stat().st_size
    again = open_backend("tensorrt_rtx", folder)
    again.run({"image": torch.rand(1, 3, *_SIZE)})
    assert kept.stat().st_size == size > 32


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_calibrated_engines_are_near_torch(precision: str, tmp_path: Path) -> None:
    library = "tensorrt_rtx" if compute_target() in RTX_TARGETS else "tensorrt"
    pytest.importorskip("tensorrt_rtx_bindings" if library == "tensorrt_rtx" else "tensorrt")
    if precision == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    record, _ = export_network(extractor(), ExportSettings(library, precision, _SIZE, 1), some_images, tmp_path / "out")  # type: ignore[arg-type]
    assert record.accuracy.run_by.startswith(library)
    assert record.accuracy.mean_cosine > 0.98
