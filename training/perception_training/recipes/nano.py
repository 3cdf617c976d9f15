"""Recipes of nano, the features that ship: pretraining on procedural scenes and homographies of photographs, then MEF finetuning."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from perception.core.config import Checked
from perception.models.nano import NanoConfig
from perception_training.benchmarks.correspondence import CorrespondenceConfig
from perception_training.data.augmentation import AugmentationConfig
from perception_training.data.augmentation.colour import ColourConfig
from perception_training.data.augmentation.pipeline import ShiftScaleRotateConfig
from perception_training.data.synthetic.homographies import HomographiesConfig
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.loop.config import OptimiserConfig, ScheduleConfig, TrainConfig
from perception_training.methods.dense_descriptors import DenseDescriptorsConfig
from perception_training.methods.discriminant_projection import ProjectionConfig
from perception_training.methods.mef import MefNetworkConfig
from perception_training.recipes.mef import MefRecipe, debug_twin, mef_code
from perception_training.recipes.mef_task import HeldOutConfig, PairSource
from perception_training.recipes.nano_task import NanoDataConfig, NanoHeldOutConfig, NanoMefTask, NanoTask


@dataclass(frozen=True, kw_only=True)
class NanoRecipe(Checked):
    """Pretraining of nano."""

    train: TrainConfig = field(default_factory=TrainConfig)
    network: NanoConfig = field(default_factory=NanoConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    loss: DenseDescriptorsConfig = field(default_factory=DenseDescriptorsConfig)
    data: NanoDataConfig = field(default_factory=NanoDataConfig)
    held_out: NanoHeldOutConfig = field(default_factory=NanoHeldOutConfig)
    start: str = ""
    """Weights of nano to begin with; empty: random ones."""

    def build(self) -> NanoTask:
        """Opens the data and makes the network."""
        return NanoTask(self.network, self.projection, self.loss, self.data, self.held_out, self.train, self.start)


def nano_pretrain() -> NanoRecipe:
    """From scratch, 4 pairs of 320x240 px a step, cut out of views of 640x480 px at their own size and at down to half of it.

    Few steps: real frames gain from the first few hundred, and lose again over thousands (docs/benchmarks.md, nano).
    """
    train = TrainConfig(
        steps=700,
        batch_size=4,
        optimiser=OptimiserConfig(learning_rate=1.5e-3, weight_decay=0.02),
        schedule=ScheduleConfig(kind="cosine", warm_up_steps=100),
        clip_norm=1.0,
        ema_decay=0.995,
        num_workers=1,
        checkpoint_every=250,
        log_every=20,
        evaluate_every=500,
    )
    scenes = ScenesConfig(
        height=480,
        width=640,
        num_frames=3,
        frame_rate_hz=3,
        num_moving=(0, 1),
        num_articulated=(0, 1),
        camera_travel=(0.15, 1.0),
        max_roll_deg=15.0,
        num_tracks=0,
        samples_per_pixel=1,
        share_photographs=0.1,
        share_collages=0.6,
        clips_per_texture_set=2,
    )
    homographies = HomographiesConfig(height=480, width=640)
    data = NanoDataConfig(scenes=scenes, scenes_weight=2.0, homographies=homographies, augmentation=nano_augmentation())
    return NanoRecipe(train=train, data=data)


def nano_augmentation() -> AugmentationConfig:
    """Each view on its own is turned, scaled and shifted half of the time, cropped and changed in its colours."""
    colour = ColourConfig(
        per_frame=True,
        jitter_probability=0.8,
        brightness=0.15,
        contrast=0.35,
        saturation=0.5,
        hue=0.03,
        blur_probability=0.5,
        blur_px=2.0,
        noise_probability=0.5,
        noise_levels=6.0,
        shot_noise_levels=8.0,
        jpeg_probability=0.4,
    )
    placement = ShiftScaleRotateConfig(probability=0.5, shift=0.15, scale=0.35, rotate_deg=20.0, border="reflect")
    return AugmentationConfig(
        shift_scale_rotate=placement, crop="random", crop_min_share=0.5, height=240, width=320, independent_frames=True, colour=colour
    )


def nano_pretrain_debug() -> NanoRecipe:
    """The same in seconds on a CPU: a thin network on small views."""
    recipe = nano_pretrain()
    optimiser = replace(recipe.train.optimiser, learning_rate=5e-3)
    train = replace(
        recipe.train,
        steps=20,
        batch_size=2,
        optimiser=optimiser,
        schedule=ScheduleConfig(),
        num_workers=0,
        device="cpu",
        log_every=1,
        checkpoint_every=20,
        evaluate_every=0,
        ema_decay=0.9,
    )
    scenes = replace(
        recipe.data.scenes, height=64, width=96, num_parts=(4, 8), num_textures=2, samples_per_pixel=1, share_photographs=0.8, share_collages=0.0
    )
    data = replace(
        recipe.data,
        scenes=scenes,
        homographies=HomographiesConfig(height=64, width=96, scale=(2.0, 4.0), max_tilt_deg=30.0, shift=0.05),
        augmentation=replace(recipe.data.augmentation, height=64, width=96),
        homographies_weight=9.0,
    )
    network = NanoConfig(dim=32, widths=(16, 16, 24), depths=(1, 1, 1), pyramid=16)
    return replace(
        recipe,
        train=train,
        network=network,
        projection=ProjectionConfig(num_batches=6),
        data=data,
        loss=replace(recipe.loss, num_queries=100),
        held_out=NanoHeldOutConfig(num_clips=2, num_points=50),
    )


@dataclass(frozen=True, kw_only=True)
class NanoMefRecipe(MefRecipe):
    """MEF finetuning of nano; --weights FILE of `nano_pretrain`, and for APE on meshes of one's own --held-out.sources.0.path DIR."""

    def build(self) -> NanoMefTask:
        """Opens the data sets and the network."""
        return NanoMefTask(self.network, self.loss, self.pairs, self.held_out, self.train)


_MEF_SIDE_PX = 320
"""80 cells, as many as MEF's patches of a side."""


def nano_mef() -> NanoMefRecipe:
    """All weights of nano on pairs of views of objects drawn from seeds, its batch norms folded and thereby frozen.

    Unlike MEF: positives within 3 px, since views are 320 px instead of 1120 and MEF's threshold is less than one of their pixels; fewer points, as
    views of this size hardly have more; a softer SmoothAP, a larger learning rate and a running mean of the weights. These three are those of a run
    whose APE on unseen meshes kept falling for 2,000 steps (docs/benchmarks.md); short runs do not tell them apart from their neighbours.
    """
    recipe = mef_code()
    views = (f"views.size_px={_MEF_SIDE_PX}", "views.num_threads=1")
    augmentation = replace(recipe.pairs.augmentation, height=_MEF_SIDE_PX, width=_MEF_SIDE_PX)
    sources = (PairSource(data_set="primitives", path=".", options=("num_objects=512", *views)),)
    pairs = replace(recipe.pairs, sources=sources, augmentation=augmentation, points=replace(recipe.pairs.points, num_points=1000))
    network = MefNetworkConfig(extractor="nano", train="everything", lora_rank=0, num_convs=0, conv_start="identity")
    optimiser = replace(recipe.train.optimiser, learning_rate=1e-3)
    train = replace(recipe.train, steps=2000, optimiser=optimiser, ema_decay=0.99, precision="auto", num_workers=0, checkpoint_every=100, keep=1)
    matching = CorrespondenceConfig(point_stride_px=16, search_stride_px=4)
    held_out = HeldOutConfig(sources=(PairSource(data_set="mesh_views", options=views),), num_views=12, matching=matching)
    loss = replace(recipe.loss, positive_below=0.015, temperature=0.05)
    return NanoMefRecipe(train=train, network=network, loss=loss, pairs=pairs, held_out=held_out)


def nano_mef_debug() -> NanoMefRecipe:
    """Debug twin."""
    twin = debug_twin(nano_mef())
    settings = {item.name: getattr(twin, item.name) for item in fields(twin)}
    return NanoMefRecipe(**{**settings, "network": replace(twin.network, extractor="tiny_nano")})
