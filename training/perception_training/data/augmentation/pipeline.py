"""All augmentations of one sample in one pass: views first, one resampling, then colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception_training.data.augmentation.colour import ColourConfig, change_colours
from perception_training.data.augmentation.resampling import Border
from perception_training.data.augmentation.undistortion import undistort_sample
from perception_training.data.augmentation.views import View, cropped, flipped, quarter_turned, resized, turned
from perception_training.data.augmentation.warping import views_of, warp_sample
from perception_training.data.sample import Sample

_SAYS_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)

Change = Callable[[View], View]


@dataclass(frozen=True, kw_only=True)
class ShiftScaleRotateConfig(Checked):
    """Shift, scale and rotation in the image plane at once, each drawn uniformly from both sides of none (as albumentations' ShiftScaleRotate)."""

    probability: Annotated[float, Range(0.0, 1.0)] = 0.0
    """How often."""
    shift: Annotated[float, Range(0.0, 1.0)] = 0.25
    """Largest shift as a share of width and height."""
    scale: Annotated[float, Range(0.0, 0.9)] = 0.25
    """Largest change of the scale from 1."""
    rotate_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 45.0
    """Largest rotation."""
    border: Border = "black"
    """What fills pixels that the original does not have; depth, masks and normals are 0 there either way."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig(Checked):
    """How a sample is changed, in the order of the fields. Everything is off by default."""

    undistort: bool = False
    """Remove lens distortion first."""
    quarter_turn_probability: Annotated[float, Range(0.0, 1.0)] = 0.0
    """How often the image is turned by 90, 180 or 270 degrees; exact."""
    shift_scale_rotate: ShiftScaleRotateConfig = field(default_factory=ShiftScaleRotateConfig)
    crop: Literal["none", "centre", "random"] = "none"
    """Cut out a window of the aspect ratio of height and width (or of the image's own): none stretches instead."""
    crop_min_share: Annotated[float, Range(0.01, 1.0)] = 1.0
    """Smallest side of that window as a share of the largest that fits; drawn between this and 1 for random crops, this for centred ones."""
    height: Annotated[int, Range(0, None, "px")] = 0
    """Final height; 0 keeps the size."""
    width: Annotated[int, Range(0, None, "px")] = 0
    """Final width; 0 keeps the size."""
    flip_probability: Annotated[float, Range(0.0, 1.0)] = 0.0
    """How often left and right change places in the whole sample: the world is mirrored. Never where its text, or a name of its points or objects,
    says left or right; sets whose points are numbered by side must keep 0."""
    independent_frames: bool = False
    """Draw turn, shift, scale and crop for each frame instead of once for all."""
    colour: ColourConfig = field(default_factory=ColourConfig)
    black_background: bool = False
    """Set the image to 0 where the mask is, after colours have changed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.height == 0) != (self.width == 0):
            raise ConfigError(f"AugmentationConfig: height {self.height} and width {self.width}: must be both 0 or both positive")


def augment(sample: Sample, config: AugmentationConfig, random: np.random.Generator) -> Sample:
    """The sample changed as `config` says, by draws from `random` only. Raises nothing for a sample that is one."""
    if config.undistort:
        sample = undistort_sample(sample)
    changes = _draw_changes(config, random)
    is_flipped = random.random() < config.flip_probability and not says_side(sample)
    views = []
    for number, view in enumerate(views_of(sample)):
        if config.independent_frames and number:
            changes = _draw_changes(config, random)
        for change in changes:
            view = change(view)
        views.append(flipped(view) if is_flipped else view)
    if changes or is_flipped:
        sample = warp_sample(sample, views, config.shift_scale_rotate.border)
    images = change_colours(sample.images, config.colour, random)
    if config.black_background and sample.masks is not None:
        images = tuple(np.where((mask != 0)[..., None], image, np.uint8(0)) for image, mask in zip(images, sample.masks, strict=True))
    return sample if images is sample.images else replace(sample, images=images)


def says_side(sample: Sample) -> bool:
    """Whether words of the sample speak of left or right, so that they would be wrong in a mirror."""
    names = sample.tracks.names if sample.tracks is not None else ()
    return any(_SAYS_SIDE.search(text) for text in (sample.text or "", *names, *(item.name for item in sample.objects)))


def _draw_changes(config: AugmentationConfig, random: np.random.Generator) -> list[Change]:
    """What happens to each view. A step that is on but not drawn is still there as one that changes nothing, so that draws stay aligned."""
    changes: list[Change] = []
    if config.quarter_turn_probability > 0:
        num_turns = int(random.integers(1, 4)) * int(random.random() < config.quarter_turn_probability)
        changes.append(lambda view: quarter_turned(view, num_turns))
    if config.shift_scale_rotate.probability > 0:
        changes.append(_draw_shift_scale_rotate(config.shift_scale_rotate, random))
    if config.crop != "none":
        changes.append(_draw_crop(config, random))
    if config.width:
        changes.append(lambda view: resized(view, config.width, config.height))
    return changes


def _draw_shift_scale_rotate(config: ShiftScaleRotateConfig, random: np.random.Generator) -> Change:
    happens = random.random() < config.probability
    shift_x, shift_y, scale, angle = random.uniform(-1, 1, 4) * (config.shift, config.shift, config.scale, config.rotate_deg)
    if not happens:
        return lambda view: view
    return lambda view: turned(view, angle, 1 + scale, (shift_x * view.size[0], shift_y * view.size[1]))


def _draw_crop(config: AugmentationConfig, random: np.random.Generator) -> Change:
    along_x, along_y, share = random.random(3)
    if config.crop == "centre":
        along_x = along_y = 0.5
        share = config.crop_min_share
    else:
        share = config.crop_min_share + (1 - config.crop_min_share) * share

    def change(view: View) -> View:
        width, height = view.size
        aspect = config.width / config.height if config.width else width / height
        wide, high = (height * aspect, height) if width > height * aspect else (width, width / aspect)
        window = min(width, max(1, round(wide * share))), min(height, max(1, round(high * share)))
        left, top = round(along_x * (width - window[0])), round(along_y * (height - window[1]))
        return cropped(view, left, top, *window)

    return change
