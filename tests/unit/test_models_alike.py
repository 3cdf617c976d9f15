"""ALIKE: the published checkpoints load key for key and match real frames; grid and errors on random weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.support.closeness import DATA

from perception.core.errors import WeightsError
from perception.models.alike import CHANNELS, AlikeNetwork
from perception.models.extractor import ExtractorConfig
from perception.models.registry import create_extractor

FOLDER = DATA / "weights" / "alike"
KITCHEN = DATA / "redkitchen"
needs_data = pytest.mark.skipif(not (FOLDER.exists() and KITCHEN.exists()), reason=f"{FOLDER} or {KITCHEN} is absent")


def random_weights(path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(AlikeNetwork(CHANNELS["alike_t"]).state_dict(), path)
    return path


def test_stride_takes_every_nth_pixel(tmp_path: Path) -> None:
    weights = str(random_weights(tmp_path / "alike.pth"))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    every, grid = create_extractor(ExtractorConfig(extractor="alike_t", weights=weights, stride_px=1, precision="float32")).extract(image)
    assert every.shape == (64, 50, 70)
    assert (grid.offset_px, grid.stride_px) == ((0.0, 0.0), (1.0, 1.0))
    fourth, grid = create_extractor(ExtractorConfig(extractor="alike_t", weights=weights, precision="float32")).extract(image)
    assert (grid.offset_px, grid.stride_px) == ((2.0, 2.0), (4.0, 4.0))
    torch.testing.assert_close(fourth, every[:, 2::4, 2::4], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_one_graph_serves_images_of_all_sizes(backend: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(backend)
    cache = tmp_path_factory.getbasetemp() / "alike"
    monkeypatch.setenv("PERCEPTION_CACHE", str(cache))
    cache.mkdir(exist_ok=True)
    settings = {"extractor": "alike_t", "weights": str(random_weights(cache / "alike.pth")), "precision": "float32", "device": "cpu"}
    plain, exported = (create_extractor(ExtractorConfig(backend=name, **settings)) for name in ("torch", backend))  # type: ignore[arg-type]
    for size in ((32, 96), (224, 32), (50, 170)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        torch.testing.assert_close(exported.extract(image)[0], plain.extract(image)[0], rtol=0, atol=1e-4)
    assert len(list((cache / "graphs").iterdir())) == 1


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    weights = str(random_weights(tmp_path / "alike.pth"))
    with pytest.raises(WeightsError, match=r"another architecture than AlikeNetwork \(.* other shape: block1"):
        create_extractor(ExtractorConfig(extractor="alike_n", weights=weights))


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("name", ["alike_t", "alike_n"])
def test_published_weights_find_the_same_places_in_real_frames(name: str) -> None:
    """Ten frames later most nearest neighbours lie within 8 px of the truth; random weights reach a few per cent."""
    weights = FOLDER / f"{name.replace('_', '-')}.pth"
    extractor = create_extractor(ExtractorConfig(extractor=name, weights=str(weights), precision="float32"))
    assert pck(extractor, 0, 10, num_points=300) > 0.6


def pck(extractor: object, first: int, second: int, num_points: int, threshold_px: float = 8.0) -> float:
    """Share of points of one kitchen frame whose nearest neighbour in another lies within threshold_px of the truth (depth and poses)."""
    maps = [extractor.extract(cv2.cvtColor(cv2.imread(str(KITCHEN / f"frame-{i:06d}.color.jpg")), cv2.COLOR_BGR2RGB)) for i in (first, second)]  # type: ignore[attr-defined]
    points, truth = correspondences(first, second, num_points)
    (query, grid), (target, _) = maps
    cells = np.round((points - grid.offset_px) / np.array(grid.stride_px)).astype(int)
    picked = query[:, cells[:, 1], cells[:, 0]]
    best = (picked.T @ target.flatten(1)).argmax(1).numpy()
    found = np.stack([best % target.shape[2], best // target.shape[2]], 1) * grid.stride_px + np.array(grid.offset_px)
    return float((np.linalg.norm(found - truth, axis=1) < threshold_px).mean())


def correspondences(first: int, second: int, num: int, focal: float = 525.0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of one frame on the 4 px grid, and where they are in another: depth of the 585 px depth camera, looked up along the colour ray."""
    rng = np.random.default_rng(first + second)
    points = np.stack([rng.integers(2, 158, 20 * num), rng.integers(2, 118, 20 * num)], 1) * 4 + 2.0
    rays = (points - [320, 240]) / focal
    depth = cv2.imread(str(KITCHEN / f"frame-{first:06d}.depth.png"), cv2.IMREAD_UNCHANGED)
    other_depth = cv2.imread(str(KITCHEN / f"frame-{second:06d}.depth.png"), cv2.IMREAD_UNCHANGED)
    col, row = np.round(rays * 585 + [320, 240]).astype(int).T
    inside = (col >= 0) & (col < 640) & (row >= 0) & (row < 480)
    points, rays, z = points[inside], rays[inside], depth[row[inside], col[inside]] / 1000
    poses = [np.loadtxt(KITCHEN / f"frame-{i:06d}.pose.txt") for i in (first, second)]
    second_from_first = np.linalg.inv(poses[1]) @ poses[0]
    moved = (np.column_stack([rays, np.ones(len(rays))]) * z[:, None]) @ second_from_first[:3, :3].T + second_from_first[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        ray = moved[:, :2] / moved[:, 2:]
    truth = ray * focal + [320, 240]
    col, row = np.clip(np.nan_to_num(ray * 585 + [320, 240], nan=-1, posinf=-1, neginf=-1), -1, 10000).round().astype(int).T
    visible = (
        (z > 0.3) & (z < 8) & (truth > 4).all(1) & (truth[:, 0] < 636) & (truth[:, 1] < 476) & (col >= 0) & (col < 640) & (row >= 0) & (row < 480)
    )
    visible[visible] &= np.abs(other_depth[row[visible], col[visible]] / 1000 - moved[visible, 2]) < 0.05
    return points[visible][:num], truth[visible][:num]
