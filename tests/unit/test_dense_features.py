"""The features pipeline: pixel coordinates after scaling, sharing between threads, errors."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
import torch

from perception.core.config import field_help
from perception.core.errors import ConfigError, InputError
from perception.core.types import Frame
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.shared import SharedFeatures, release_features, shared_features


def frame_of(seed: int, height: int = 96, width: int = 128, time_ns: int = 7, source: str = "left") -> Frame:
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    return Frame(np.clip(127 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8), time_ns, frame_id="optical", source=source)


def test_step_carries_stamp_frame_and_grid() -> None:
    features = DenseFeatures(DenseFeaturesConfig(extractor="dense_sift", device="cpu"))
    result = features.step(frame_of(0))
    assert result.descriptors.shape == (128, 24, 32)
    assert (result.time_ns, result.frame_id, result.image_size) == (7, "optical", (96, 128))
    assert (result.extractor, result.dim) == (features.name, features.dim)
    assert (result.grid.offset_px, result.grid.stride_px) == ((2.0, 2.0), (4.0, 4.0))


def test_scaled_down_frames_keep_original_pixels() -> None:
    """The map of an image enlarged twice, scaled down again by the pipeline, is the map of the image with a grid twice as wide."""
    small = frame_of(1)
    large = Frame(cv2.resize(small.image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), 7)
    plain = DenseFeatures(DenseFeaturesConfig(extractor="dense_sift", device="cpu")).step(small)
    limited = DenseFeatures(DenseFeaturesConfig(extractor="dense_sift", device="cpu", max_image_side_px=128)).step(large)
    torch.testing.assert_close(limited.descriptors, plain.descriptors)
    assert limited.image_size == (192, 256)
    assert limited.grid.stride_px == (8.0, 8.0)
    assert limited.grid.offset_px == (4.5, 4.5)  # small pixel 2 covers the large pixels 4 and 5


def test_same_frame_is_computed_once_across_threads() -> None:
    config = DenseFeaturesConfig(extractor="dense_sift", device="cpu", sift_size_px=8.0)
    features = shared_features(config)
    assert shared_features(DenseFeaturesConfig(extractor="dense_sift", device="cpu", sift_size_px=8.0)) is features
    assert isinstance(features, SharedFeatures)
    frame = frame_of(2)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(features.step(frame))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(result is results[0] for result in results)
    assert features.num_computed == 1
    release_features(config)
    assert shared_features(config) is features
    release_features(config)
    release_features(config)
    assert shared_features(config) is not features
    release_features(config)
    with pytest.raises(InputError, match="released more often"):
        release_features(config)


def test_frames_that_only_share_the_stamp_are_not_mixed_up() -> None:
    features = SharedFeatures(DenseFeaturesConfig(extractor="dense_sift", device="cpu"))
    first, second, other = features.step(frame_of(3)), features.step(frame_of(4)), features.step(frame_of(3, source="right"))
    assert features.num_computed == 3
    assert not torch.equal(first.descriptors, second.descriptors)
    assert torch.equal(first.descriptors, other.descriptors)


def test_config_errors_and_help() -> None:
    texts = field_help(DenseFeaturesConfig)
    assert all(texts[name] for name in DenseFeaturesConfig.__dataclass_fields__)
    with pytest.raises(ConfigError, match="max_image_side_px"):
        DenseFeaturesConfig(max_image_side_px=-1)
    with pytest.raises(ConfigError, match=r"known: .*dense_sift"):
        DenseFeatures(DenseFeaturesConfig(extractor="nothing"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            DenseFeatures(DenseFeaturesConfig(device="cuda"))
