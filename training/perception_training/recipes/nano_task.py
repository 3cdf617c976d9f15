"""Training of nano as the engine sees it: pairs of rendered views, InfoNCE, matching on held-out scenes, a weights file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, WeightsError
from perception.models.nano import NanoConfig, NanoNetwork, read_nano, write_nano
from perception_training.data.augmentation import AugmentationConfig
from perception_training.data.collation import Batch, collate
from perception_training.data.frame_sampling import FrameSamplingConfig
from perception_training.data.loading import LoaderConfig, make_loader
from perception_training.data.mixture import Mixture, MixtureConfig, Source
from perception_training.data.readers.scenes import ProceduralScenes, ScenesOptions
from perception_training.data.readers.shards import Shards
from perception_training.data.sequences import Dataset
from perception_training.data.synthetic.homographies import Homographies, HomographiesConfig
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import render_clip
from perception_training.loop.config import TrainConfig
from perception_training.loop.task import Losses, Task
from perception_training.methods.dense_descriptors import DenseDescriptors, DenseDescriptorsConfig, descriptor_loss, matching_errors_px
from perception_training.methods.discriminant_projection import ProjectionConfig, discriminant_projection
from perception_training.methods.gradient_layouts import layouts_of_pairs
from perception_training.recipes.mef_task import MefTask

NETWORK_FILE = "nano.safetensors"
_HELD_OUT_SEED = 2**59
"""First seed of the clips of the evaluation, which nobody renders for training."""
_THRESHOLDS_PX = (4, 8)


@dataclass(frozen=True, kw_only=True)
class NanoDataConfig(Checked):
    """Pairs of views that are trained on."""

    shards: tuple[str, ...] = ()
    """Folders that `perception-train render` has written; left empty, scenes are rendered while training, which takes longer than a step."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """What scenes are drawn from: those of the evaluation, and those of training where there are no shards."""
    scenes_weight: Annotated[float, Range(0.0)] = 3.0
    """How often a pair is of a scene."""
    homographies: HomographiesConfig = field(default_factory=HomographiesConfig)
    """Views of photographs."""
    homographies_weight: Annotated[float, Range(0.0)] = 1.0
    """How often a pair is of a photograph."""
    share_turned: Annotated[float, Range(0.0, 1.0)] = 0.1
    """Pairs whose views are turned by any angle."""
    min_covisibility: Annotated[float, Range(0.0, 1.0)] = 0.15
    """Smallest share of the first view that the second sees."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Changes of all pairs. Views keep their size."""


@dataclass(frozen=True, kw_only=True)
class NanoHeldOutConfig(Checked):
    """Evaluation on scenes of other seeds."""

    num_clips: Annotated[int, Range(0)] = 16
    """Scenes; the first and the last view of each are matched."""
    num_points: Annotated[int, Range(1)] = 200
    """Pixels of each first view."""


class NanoTask(Task):
    """The network on pairs."""

    module: DenseDescriptors
    saved_frozen = ("network.project.",)
    memory_settings = ("train.batch_size", "loss.num_queries", "data.scenes.height", "data.scenes.width")

    def __init__(
        self,
        network: NanoConfig,
        projection: ProjectionConfig,
        loss: DenseDescriptorsConfig,
        data: NanoDataConfig,
        held_out: NanoHeldOutConfig,
        train: TrainConfig,
        start: str = "",
    ) -> None:
        self.projection, self.config, self.held_out, self.train, self.scenes = projection, loss, held_out, train, data.scenes
        if len(projection.level_weights) != network.levels:
            raise ConfigError(
                f"projection.level_weights: {len(projection.level_weights)} numbers; must be {network.levels}, as many as network.levels"
            )
        self.mixture = Mixture(_sources(data), MixtureConfig(seed=train.seed))
        self.module = DenseDescriptors(NanoNetwork(network) if not start else _started(Path(start), network))
        self.module.network.get_submodule("project").requires_grad_(False)
        self._network_config, self._is_started = network, bool(start)
        self._held_out_batch: Batch | None = None

    def data(self, start: int, rank: int, world_size: int) -> Iterable[Any]:
        config = LoaderConfig(batch_size=self.train.batch_size, num_workers=self.train.num_workers)
        return make_loader(self.mixture, config, start, rank, world_size)

    def begin(self) -> None:
        """Compute the projection, unless the weights that are begun with have one."""
        if self._is_started:
            return
        network, config = self.module.network, self.projection
        assert isinstance(network, NanoNetwork)
        batches = islice(self.data(0, 0, 1), config.num_batches)
        first, second = layouts_of_pairs(network.layouts, batches, self.module.grid, self.config, torch.Generator().manual_seed(self.train.seed))
        weights = torch.tensor(config.level_weights, dtype=torch.float64).repeat_interleave(network.layouts.dim)
        found = discriminant_projection(first * weights, second * weights, network.dim, config.least_difference)
        network.set_projection(found.matrix * weights, found.mean / weights)

    def losses(self, batch: Batch) -> Losses:
        return {"info_nce": (1.0, descriptor_loss(self.module, batch, self.config))}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """PCK: share of pixels whose nearest neighbour lies within 4 and 8 px of the truth."""
        if not self.held_out.num_clips:
            return {}
        if self._held_out_batch is None:
            seeds = range(_HELD_OUT_SEED, _HELD_OUT_SEED + self.held_out.num_clips)
            self._held_out_batch = collate([render_clip(self.scenes, seed, (0, self.scenes.num_frames - 1)) for seed in seeds])
        device = next(self.module.parameters()).device
        generator = torch.Generator().manual_seed(0)
        errors = matching_errors_px(
            self.module, self._held_out_batch.to(device), self.held_out.num_points, self.config.max_relative_depth_error, generator
        )
        return {f"pck_{threshold}px": float((errors < threshold).float().mean()) for threshold in _THRESHOLDS_PX}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """`nano.safetensors`, which `ExtractorConfig(extractor="nano", weights=...)` takes."""
        folder.mkdir(parents=True, exist_ok=True)
        write_nano(folder / NETWORK_FILE, self._network_config, {name.removeprefix("network."): value for name, value in weights.items()})


class NanoMefTask(MefTask):
    """MEF finetuning of all of nano's weights, which end in a weights file of nano."""

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """`nano.safetensors` where no convolutions were added and all was trained; otherwise what MEF writes."""
        network = self.module.dense.network
        if self.module.config.train != "everything" or self.module.config.num_convs or not isinstance(network, NanoNetwork):
            super().export(folder, weights)
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_nano(folder / NETWORK_FILE, network.config, {name.removeprefix("dense.network."): value for name, value in weights.items()})


def _started(path: Path, config: NanoConfig) -> NanoNetwork:
    network = read_nano(path)
    if network.config != config:
        raise WeightsError(f"weights {path}: are of {network.config}; must be of {config}, the recipe's network")
    return network.train()


def _sources(data: NanoDataConfig) -> list[Source]:
    """Scenes and photographs, each as they are and, for a share of the pairs, turned by any angle."""
    scenes: list[Dataset] = [Shards(folder) for folder in data.shards]
    if not scenes:
        options = ScenesOptions(scenes=data.scenes)
        scenes = [ProceduralScenes(Path(__file__).parent, options)]
    lengths = [len(dataset) for dataset in scenes]
    weighted: list[tuple[str, Dataset, float]] = [
        (f"scenes_{number}", dataset, data.scenes_weight * length / sum(lengths))
        for number, (dataset, length) in enumerate(zip(scenes, lengths, strict=True))
    ]
    weighted.append(("homographies", Homographies(data.homographies), data.homographies_weight))
    turned = replace(data.augmentation, shift_scale_rotate=replace(data.augmentation.shift_scale_rotate, probability=1.0, rotate_deg=180.0))
    frames = FrameSamplingConfig(mode="pair", min_covisibility=data.min_covisibility)
    sources = []
    for name, dataset, weight in weighted:
        for suffix, augmentation, share in (("", data.augmentation, 1 - data.share_turned), ("_turned", turned, data.share_turned)):
            if weight * share > 0:
                sources.append(Source(name + suffix, dataset, frames, augmentation, weight * share))
    if not sources:
        raise ConfigError("NanoDataConfig: scenes_weight and homographies_weight are both 0: one must be positive")
    return sources
