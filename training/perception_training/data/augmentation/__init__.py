"""Augmentation of samples that keeps cameras, poses, depth, normals, masks, tracks and objects consistent with the images."""

from perception_training.data.augmentation.colour import ColourConfig
from perception_training.data.augmentation.pipeline import AugmentationConfig, ShiftScaleRotateConfig, augment
from perception_training.data.augmentation.undistortion import undistort_sample

__all__ = ["AugmentationConfig", "ColourConfig", "ShiftScaleRotateConfig", "augment", "undistort_sample"]
