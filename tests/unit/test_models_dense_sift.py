"""The dense SIFT against cv2.SIFT, keypoint by keypoint, and what it does on images without texture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from tests.support.closeness import DATA

from perception.core.config import from_mapping
from perception.core.errors import ConfigError, InputError
from perception.models.dense_sift import DenseSift, DenseSiftOpenCv
from perception.models.extractor import ExtractorConfig
from perception.models.registry import EXTRACTORS, create_extractor

pytestmark = pytest.mark.filterwarnings("error")


def textured(height: int, width: int, seed: int, sigma_px: float = 2.0) -> np.ndarray:
    """Smooth coloured noise over the full range of intensities."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma_px)
    return np.clip(127 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def agreement(image: np.ndarray, step_px: int, size_px: float) -> torch.Tensor:
    """Cosine of both implementations in each cell."""
    ours, grid = DenseSift(step_px, size_px, "cpu").extract(image)
    theirs, their_grid = DenseSiftOpenCv(step_px, size_px).extract(image)
    assert ours.shape == theirs.shape
    assert grid == their_grid
    return (ours * theirs).sum(0)


@pytest.mark.parametrize(("height", "width", "step_px", "size_px"), [(150, 210, 9, 16.0), (97, 61, 7, 8.0), (40, 50, 5, 16.0), (131, 120, 11, 25.0)])
def test_equals_opencv_on_textures(height: int, width: int, step_px: int, size_px: float) -> None:
    cosine = agreement(textured(height, width, seed=height), step_px, size_px)
    assert cosine.min() > 0.999


@pytest.mark.data
@pytest.mark.parametrize("index", [0, 60])
def test_equals_opencv_on_real_frames(index: int) -> None:
    path = DATA / "redkitchen" / f"frame-{index:06d}.color.jpg"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    cosine = agreement(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), step_px=16, size_px=16.0)
    assert cosine.min() > 0.997  # OpenCV rounds each entry to 1/512, which shows where a wall is nearly flat
    assert (cosine > 0.999).float().mean() > 0.95


def test_grid_covers_the_image_and_counts_in_pixels() -> None:
    """Moving the image by one grid step moves the map by one cell."""
    image = textured(120, 160, seed=3)
    extractor = DenseSift(4, 4.0, "cpu")
    whole, grid = extractor.extract(image)
    moved, _ = extractor.extract(image[4:, 8:])
    assert grid.offset_px == (2.0, 2.0)
    assert grid.stride_px == (4.0, 4.0)
    inner = (slice(None), slice(6, 20), slice(6, 26))
    expected = whole[:, 1:, 2:][inner]
    torch.testing.assert_close(moved[inner], expected, atol=2e-3, rtol=0)


def test_descriptors_are_unit_and_flat_images_give_zero() -> None:
    extractor = DenseSift(4, 8.0, "cpu")
    flat, _ = extractor.extract(np.full((60, 80, 3), 127, np.uint8))
    assert not flat.any()
    half = np.full((60, 400, 3), 90, np.uint8)
    half[:, :100] = textured(60, 100, seed=1)
    mixed, _ = extractor.extract(half)
    assert torch.isfinite(mixed).all()
    norms = mixed.norm(dim=0)
    assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all()
    assert (norms[:, :20] > 0).all()
    assert not norms[:, 60:].any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 300)])
def test_tiny_images(height: int, width: int) -> None:
    descriptors, _ = DenseSift(4, 16.0, "cpu").extract(textured(height, width, seed=0))
    assert descriptors.shape[0] == 128
    assert min(descriptors.shape[1:]) >= 1
    assert torch.isfinite(descriptors).all()


def test_registry_and_errors() -> None:
    extractor = create_extractor(ExtractorConfig(extractor="dense_sift", stride_px=8, sift_size_px=10.0))
    assert (extractor.name, extractor.dim) == ("dense_sift(size=10)", 128)
    with pytest.raises(ConfigError, match=r"extractor = 'sift': unknown; known: .*dense_sift"):
        create_extractor(ExtractorConfig(extractor="sift"))
    with pytest.raises(ConfigError, match="no network graph"):
        create_extractor(ExtractorConfig(extractor="dense_sift", backend="onnxruntime"))
    with pytest.raises(ConfigError, match="has no weights"):
        create_extractor(ExtractorConfig(extractor="dense_sift", weights="x.pth"))
    with pytest.raises(ConfigError, match="sift_size_px"):
        from_mapping(ExtractorConfig, {"sift_size_px": 0.0})
    with pytest.raises(InputError, match="must be \\(height, width, 3\\) uint8"):
        extractor.extract(np.zeros((4, 4), np.uint8))
    assert all(":" in target for target in EXTRACTORS.values())
