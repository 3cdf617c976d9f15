"""Dense features of benchmark images: any extractor of the registry, at the resolution that a protocol asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import yaml

import perception.models
from perception.core.config import Range, from_mapping, to_mapping
from perception.core.errors import ConfigError
from perception.core.types import FeatureMap, Frame, Grid
from perception.evaluation.provenance import source_identity
from perception.models.extractor import ExtractorConfig
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig

SHIPPED_WEIGHTS = Path(perception.models.__path__[0]) / "weights"


@dataclass(frozen=True, kw_only=True)
class BenchmarkFeaturesConfig(ExtractorConfig):
    """The extractor, and how large it sees the images."""

    image_side_px: Annotated[int, Range(0, 16_384, "px")] = 0
    """Images are scaled, up or down, so that their longer side is this; results stay in pixels of the image as it came. 0: as they are.
    MEF shows DINOv2 512 px as 896 (poses) or 1120 (training), and DAVIS as 854."""
    label: str = ""
    """Name in tables and plots; empty: that of the extractor."""


class BenchmarkFeatures(DenseFeatures):
    """`DenseFeatures` with the image scaled to `image_side_px` first; the grid counts in pixels of the image as it came."""

    def __init__(self, config: BenchmarkFeaturesConfig) -> None:
        shared = {item.name: getattr(config, item.name) for item in fields(ExtractorConfig)}
        super().__init__(DenseFeaturesConfig(**shared))
        self.benchmark_config = config

    @property
    def label(self) -> str:
        """Name in tables and plots."""
        return self.benchmark_config.label or self.name

    def step(self, frame: Frame) -> FeatureMap:
        height, width = frame.image.shape[:2]
        side = self.benchmark_config.image_side_px
        if not side or side == max(height, width):
            return super().step(frame)
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(frame.image, size, interpolation=interpolation).astype(np.uint8, copy=False)
        found = super().step(Frame(resized, frame.time_ns, frame_id=frame.frame_id, source=frame.source))
        ratio = (width / size[0], height / size[1])
        offset, stride = found.grid.offset_px, found.grid.stride_px
        grid = Grid(
            ((offset[0] + 0.5) * ratio[0] - 0.5, (offset[1] + 0.5) * ratio[1] - 0.5),
            (stride[0] * ratio[0], stride[1] * ratio[1]),
        )
        return replace(found, grid=grid, image_size=(height, width))

    def identity(self) -> dict[str, Any]:
        """What the descriptors depend on: the settings, the name, and the content of the weights where they are a file that may change."""
        return {"features": to_mapping(self.benchmark_config), "extractor": self.name, **weights_identity(self.benchmark_config)}


def weights_identity(config: ExtractorConfig) -> Mapping[str, str]:
    """Size and SHA-256 of a local weights file or folder, and of weights that ship under the extractor's name."""
    path = Path(config.weights).expanduser()
    if config.weights and path.exists():
        return {"weights": source_identity(path)}
    shipped = sorted(SHIPPED_WEIGHTS.glob(f"{config.extractor}*.safetensors")) if not config.weights else []
    return {"weights": "; ".join(source_identity(item) for item in shipped)} if shipped else {}


def features_from_text(text: str) -> BenchmarkFeaturesConfig:
    """The config that `NAME,key=value,...` spells, such as `dense_sift,sift_size_px=16,label=SIFT`; for commands that compare several extractors."""
    name, *settings = text.split(",")
    mapping: dict[str, Any] = {"extractor": name.strip()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key.strip() in mapping:
            raise ConfigError(f"extractor {text!r}: {setting!r} must be a setting of it, such as sift_size_px=16, and be there once")
        mapping[key.strip()] = value if key.strip() in ("weights", "label") else yaml.safe_load(value)
    return from_mapping(BenchmarkFeaturesConfig, mapping, f"extractor {text!r}")
