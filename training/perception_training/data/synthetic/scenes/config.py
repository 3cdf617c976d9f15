"""What procedural scenes are drawn from: the settings of `make_scenes` and of the data set `scenes`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError

Share = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, kw_only=True)
class EffectsConfig(Checked):
    """What the camera does to the images. The truth (depth, ids, poses, tracks) is untouched. Shares are of clips."""

    share_motion_blur: Share = 0.3
    """Clips whose shutter stays open for a part of the frame interval."""
    max_shutter: Share = 0.6
    """Longest exposure as a share of the frame interval."""
    share_exposure_drift: Share = 0.4
    """Clips whose exposure rolls up and down over time."""
    max_exposure_drift: Annotated[float, Range(0.0, 3.0, "stops")] = 0.7
    """Largest departure of the exposure."""
    max_noise: Annotated[float, Range(0.0, 0.2)] = 0.035
    """Largest standard deviation of sensor noise, in display values from 0 to 1; grows with brightness like shot noise."""
    max_gain: Annotated[float, Range(0.0, 1.0)] = 0.15
    """Largest change of contrast and of the balance of the channels, as a share."""
    max_gamma: Annotated[float, Range(0.0, 1.0)] = 0.25
    """Largest logarithm of the gamma that is applied to display values."""
    max_saturation: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Largest change of the saturation, as a share."""
    share_defocus: Share = 0.25
    """Clips that are out of focus."""
    max_defocus: Annotated[float, Range(0.0, 5.0, "px")] = 1.3
    """Largest standard deviation of the blur at a width of 224; grows with the width of the image."""
    share_jpeg: Share = 0.4
    """Clips that pass through JPEG's quantisation."""
    min_jpeg_quality: Annotated[int, Range(5, 100)] = 35
    """Lowest quality of it."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig(Checked):
    """Rooms, table tops and open ground with moving things, seen by a moving camera. Pairs are the ends of ranges."""

    height: Annotated[int, Range(8, 4096, "px")] = 224
    """Height of the images."""
    width: Annotated[int, Range(8, 4096, "px")] = 224
    """Width of the images."""
    num_frames: Annotated[int, Range(1, 1000)] = 8
    """Frames of a clip."""
    frame_rate_hz: Annotated[float, Range(0.1, 1000.0, "Hz")] = 8.0
    """Frames for each second. Things and camera move by so much in a clip, whatever its length."""
    room_weight: Annotated[float, Range(0.0)] = 0.5
    """Weight of rooms with furniture."""
    table_top_weight: Annotated[float, Range(0.0)] = 0.35
    """Weight of table tops with goods."""
    outdoors_weight: Annotated[float, Range(0.0)] = 0.15
    """Weight of open ground with trees and huts."""
    num_parts: Annotated[tuple[int, int], Range(1, 500)] = (16, 60)
    """Primitives to aim for besides what moves."""
    num_moving: Annotated[tuple[int, int], Range(0, 50)] = (0, 4)
    """Rigid things that move."""
    num_articulated: Annotated[tuple[int, int], Range(0, 20)] = (0, 2)
    """Things with joints: doors, drawers, arms, pendulums, rotors."""
    share_frozen: Share = 0.15
    """Clips in which nothing but the camera moves."""
    camera_travel: Annotated[tuple[float, float], Range(0.001, 10.0)] = (0.04, 0.6)
    """Way of the camera in a clip as a share of its distance from what it looks at; drawn evenly in its logarithm."""
    max_roll_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 7.0
    """Largest roll of the camera."""
    share_still_camera: Share = 0.08
    """Clips whose camera stands still."""
    share_shaken: Share = 0.4
    """Clips whose camera trembles as in a hand."""
    focal: Annotated[tuple[float, float], Range(0.1, 20.0)] = (0.75, 1.7)
    """Focal length as a share of the width."""
    num_lights: Annotated[tuple[int, int], Range(1, 8)] = (1, 3)
    """Point lights (outdoors: the sun and lamps)."""
    share_moving_lights: Share = 0.15
    """Clips in which a lamp moves."""
    share_photographs: Share = 0.5
    """Surfaces with a crop of a photograph."""
    share_plain: Share = 0.15
    """Surfaces that are nearly plain."""
    share_collages: Share = 0.0
    """Surfaces with a collage that no other set of textures has; the rest have patterns out of a bank of 384."""
    share_glossy: Share = 0.35
    """Surfaces with a highlight."""
    brightness: Annotated[tuple[float, float], Range(1.0, 254.0)] = (75.0, 150.0)
    """Mean display value of a clip that the exposure is set for."""
    num_textures: Annotated[int, Range(1, 1024)] = 32
    """Pictures in a set of textures."""
    clips_per_texture_set: Annotated[int, Range(1, 100000)] = 8
    """Clips of neighbouring seeds that share a set of textures: drawing a set takes longer than everything else."""
    texture_folder: str = ""
    """Folder of photographs to be used besides those that scikit-image ships."""
    samples_per_pixel: Annotated[int, Range(1, 64)] = 2
    """Rays for each pixel of an image; they lie at different places in it and at different times of the exposure."""
    num_tracks: Annotated[int, Range(0, 100000)] = 128
    """Points followed through a clip."""
    share_dynamic_tracks: Share = 0.5
    """Points to be picked on moving surfaces, where enough are seen."""
    effects: EffectsConfig = field(default_factory=EffectsConfig)
    """What the camera does to the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_parts", "num_moving", "num_articulated", "camera_travel", "focal", "num_lights", "brightness"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"ScenesConfig.{name} = {[low, high]}: the first must not exceed the second")
        if self.share_photographs + self.share_plain + self.share_collages > 1:
            shares = (self.share_photographs, self.share_plain, self.share_collages)
            raise ConfigError(f"ScenesConfig: share_photographs, share_plain, share_collages = {shares}: their sum must not exceed 1")
        if not self.room_weight + self.table_top_weight + self.outdoors_weight:
            raise ConfigError("ScenesConfig: room_weight, table_top_weight and outdoors_weight are all 0: one must be positive")

    @property
    def duration_s(self) -> float:
        """Length of a clip: each frame lasts one interval."""
        return self.num_frames / self.frame_rate_hz
