"""The augmentations of the published methods, as far as their papers and code name them."""

from __future__ import annotations

from perception_training.data.augmentation.colour import ColourConfig
from perception_training.data.augmentation.pipeline import AugmentationConfig, ShiftScaleRotateConfig

MEF_SIZE_PX = 1120
"""80 patches of 14 px."""


def mef_augmentation() -> AugmentationConfig:
    """MEF (3DCorrEnhance, data_utils/dataset.py): each view on its own is shifted, scaled and rotated half of the time, and each change of colour
    happens half of the time; the background is black. The noise here is a sensor's, not albumentations' ISONoise number for number."""
    half = 0.5
    colour = ColourConfig(
        per_frame=True,
        jitter_probability=half,
        saturation=0.0,
        hue=0.0,
        clahe_probability=half,
        blur_probability=half,
        noise_probability=half,
    )
    placement = ShiftScaleRotateConfig(probability=half)
    return AugmentationConfig(
        shift_scale_rotate=placement, height=MEF_SIZE_PX, width=MEF_SIZE_PX, independent_frames=True, colour=colour, black_background=True
    )


def three_d_pov_augmentation() -> AugmentationConfig:
    """3DPoV (exp_3dpov_multigpu.py): stretched to 224x224, flipped half of the time, colours as they are."""
    return AugmentationConfig(height=224, width=224, flip_probability=0.5)
