"""MEF as the training engine sees it: pairs of views in, the loss out, APE on held-out views, an adapter at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception.core.types import FeatureMap, Frame, Grid
from perception_training.benchmarks.correspondence import Correspondence, CorrespondenceConfig, score
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.data.augmentation import AugmentationConfig
from perception_training.data.collation import Batch
from perception_training.data.frame_sampling import MEF_MAX_ROTATION_DEG, FrameSamplingConfig
from perception_training.data.loading import LoaderConfig, make_loader
from perception_training.data.mixture import Mixture, MixtureConfig, Source
from perception_training.data.readers import open_dataset
from perception_training.data.sequences import Dataset
from perception_training.loop.config import TrainConfig
from perception_training.loop.parameter_groups import ParameterGroup
from perception_training.loop.task import Losses, Task
from perception_training.loop.tensor_files import write_tensors
from perception_training.methods.mef import MefLossConfig, MefNetwork, MefNetworkConfig, mef_terms
from perception_training.methods.pair_data import ChosenSequences, KeptFrames, PairPointsConfig, draw_points

ADAPTER_FILE, NETWORK_FILE = "adapter.safetensors", "network.safetensors"


@dataclass(frozen=True, kw_only=True)
class PairSource(Checked):
    """A data set that gives pairs of views."""

    data_set: str = "objaverse"
    """Its name, as `perception-train data check` lists them: objaverse, mesh_views, mvimgnet, scenes, seven_scenes, ..."""
    path: str = ""
    """Where its copy lies."""
    options: tuple[str, ...] = ()
    """Settings of its reader, such as views.size_px=320; `perception-train data check NAME --help` lists them."""
    weight: Annotated[float, Range(1e-9)] = 1.0
    """How often pairs come from it, against the other sources."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig(Checked):
    """Pairs of views, and how they are changed."""

    sources: tuple[PairSource, ...] = (PairSource(),)
    """Data sets. Each has a path to be set: --sources.0.path DIR."""
    num_objects: Annotated[int, Range(0)] = 0
    """So many sequences of each source, drawn by `seed`; 0: all that are not held out."""
    num_held_out: Annotated[int, Range(0)] = 0
    """So many sequences of each source, drawn by `seed` before all others, are not trained on and give the evaluation."""
    one_pair: bool = False
    """Only one pair of views of each sequence, drawn by `seed`."""
    seed: Annotated[int, Range(0)] = 42
    """Of the choice of sequences and pairs (that of the order is the engine's)."""
    max_rotation_deg: Annotated[float, Range(0.0, 180.0, "deg")] = MEF_MAX_ROTATION_DEG
    """Views that are turned by more are no pair."""
    min_covisibility: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Smallest share of the first view's surface that the second sees; for scenes and long clips, where views may share nothing."""
    skip_bad: bool = True
    """Leave samples out that cannot be read."""
    points: PairPointsConfig = field(default_factory=PairPointsConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig(Checked):
    """Evaluation on what is not trained on, by APE (`benchmarks/correspondence.py`): sequences held out of the sources, and other data sets."""

    sources: tuple[PairSource, ...] = (PairSource(data_set="mesh_views"),)
    """Data sets of which all sequences are evaluated: those whose path is set (--held-out.sources.0.path DIR)."""
    num_views: Annotated[int, Range(2)] = 6
    """Views of each sequence; all their pairs are compared."""
    image_side_px: Annotated[int, Range(0, 16_384, "px")] = 0
    """Longer side at which images are shown to the network; 0: the height of the training images."""
    matching: CorrespondenceConfig = field(default_factory=lambda: CorrespondenceConfig(point_stride_px=8, max_turn_deg=MEF_MAX_ROTATION_DEG))


class MefTask(Task):
    """Network, pairs and loss of one recipe. num_empty, num_pairs: pairs so far whose views shared no point, and all; figures of `evaluate`."""

    memory_settings = ("pairs.augmentation.height", "pairs.points.num_points")

    def __init__(self, network: MefNetworkConfig, loss: MefLossConfig, pairs: PairsConfig, held_out: HeldOutConfig, train: TrainConfig) -> None:
        self.module: MefNetwork = MefNetwork(network)
        self._loss, self._pairs, self._held_out, self._train = loss, pairs, held_out, train
        self._check_size()
        self._mixture = self._opened()
        self._num_batches, self._num_empty = 0, torch.zeros((), dtype=torch.int64)

    def _check_size(self) -> None:
        unit, size = self.module.dense.multiple_px, (self._pairs.augmentation.height, self._pairs.augmentation.width)
        if 0 in size or size[0] % unit or size[1] % unit:
            raise ConfigError(
                f"pairs.augmentation: height {size[0]} and width {size[1]}: must be set, and be multiples of {unit} px "
                f"for {self.module.config.extractor}"
            )

    def _opened(self) -> Mixture:
        """Opens the data sets; keeps what is evaluated."""
        pairs = self._pairs
        frames = FrameSamplingConfig(mode="pair", max_rotation_deg=pairs.max_rotation_deg, min_covisibility=pairs.min_covisibility)
        sources = []
        self._evaluated: list[Dataset] = []
        for number, source in enumerate(pairs.sources):
            whole = _open(source, f"pairs.sources.{number}")
            fixed = frames if pairs.one_pair else None
            chosen = ChosenSequences(whole, pairs.num_objects, pairs.seed, skip=pairs.num_held_out, one_pair=fixed)
            sources.append(Source(f"{number}_{source.data_set}", chosen, frames, pairs.augmentation, source.weight))
            if pairs.num_held_out:
                self._evaluated.append(KeptFrames(ChosenSequences(whole, pairs.num_held_out, pairs.seed)))
        others = [(number, source) for number, source in enumerate(self._held_out.sources) if source.path]
        self._evaluated += [KeptFrames(_open(source, f"held_out.sources.{number}")) for number, source in others]
        return Mixture(sources, MixtureConfig(seed=self._train.seed, skip_bad=pairs.skip_bad))

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group with weight decay, as published."""
        return [ParameterGroup("all", tuple(parameter for parameter in self.module.parameters() if parameter.requires_grad))]

    def data(self, start: int, rank: int, world_size: int) -> Iterable[Batch]:
        config = LoaderConfig(batch_size=self._train.batch_size, num_workers=self._train.num_workers)
        return make_loader(self._mixture, config, start, rank, world_size)

    def losses(self, batch: Batch) -> Losses:
        points = draw_points(batch, self._pairs.points)
        maps = self.module(batch.images.flatten(0, 1))
        terms = mef_terms(maps, self.module.grid, points, self._loss)
        self._num_batches += 1
        self._num_empty = self._num_empty.to(terms.num_anchors.device) + (terms.num_anchors == 0)
        return {self._loss.kind: (1.0, terms.loss)}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """APE and PCDP on the held-out sequences, and the share of batches so far whose views shared nothing."""
        figures: dict[str, float] = {}
        if self._num_batches:
            figures["share_without_positives"] = float(self._num_empty) / self._num_batches
        side = self._held_out.image_side_px or self._pairs.augmentation.height
        features = cast(BenchmarkFeatures, ModuleFeatures(self.module, side))
        matching = CorrespondenceConfig(**{**vars(self._held_out.matching), "max_views": self._held_out.num_views})
        for number, dataset in enumerate(self._evaluated):
            benchmark = Correspondence(dataset, features, matching)
            with torch.autocast(next(self.module.parameters()).device.type, enabled=False):  # matching needs float32, whatever the training has
                summary = score({unit: benchmark.predict(unit) for unit in benchmark.units}).summary
            prefix = "" if len(self._evaluated) == 1 else f"{number}_{dataset.name}/"
            figures |= {f"{prefix}{name}": float(value) for name, value in summary.items() if name.startswith(("ape", "pcdp")) and np.isfinite(value)}
        return figures

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """The adapter (low-rank changes and convolutions, `perception.models.adapter`), or the whole network where all of it was trained."""
        if self.module.config.train == "everything":
            write_tensors(folder / NETWORK_FILE, {name.removeprefix("dense."): value for name, value in weights.items()})
            return
        adapter = self.module.adapter()
        write_tensors(folder / ADAPTER_FILE, adapter.tensors(), adapter.metadata())


def _open(source: PairSource, place: str) -> Dataset:
    """Raises ConfigError that begins with `place` for a source without path or with options that cannot be read."""
    if not source.path:
        raise ConfigError(f"{place}.path: is empty; must be where the copy of {source.data_set} lies")
    options: dict[str, Any] = {}
    for text in source.options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{place}.options: {text!r}: must be a setting of {source.data_set}, such as views.size_px=320")
        options[key.strip()] = yaml.safe_load(value)
    return open_dataset(source.data_set, source.path, options)


class ModuleFeatures:
    """What the evaluation asks of features: a map of each image, from a network in training, images scaled to a longer side of `side_px`."""

    def __init__(self, module: MefNetwork, side_px: int) -> None:
        self.module, self.side_px = module, side_px

    def step(self, frame: Frame) -> FeatureMap:
        """Unit descriptors of all cells; the grid counts in pixels of the image as it came."""
        height, width = frame.image.shape[:2]
        unit = self.module.dense.multiple_px
        scale = self.side_px / max(height, width)
        size = [max(1, round(side * scale / unit)) * unit for side in (width, height)]
        image = np.ascontiguousarray(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(next(self.module.parameters()).device)
        with torch.no_grad():
            descriptors = torch.nn.functional.normalize(self.module(pixels)[0].float(), dim=0)
        ratio, grid = (width / size[0], height / size[1]), self.module.grid
        offset = tuple((grid.offset_px[axis] + 0.5) * ratio[axis] - 0.5 for axis in (0, 1))
        stride = tuple(grid.stride_px[axis] * ratio[axis] for axis in (0, 1))
        placed = Grid(cast(Any, offset), cast(Any, stride))
        return FeatureMap(descriptors, placed, (height, width), "in training", frame.time_ns)
