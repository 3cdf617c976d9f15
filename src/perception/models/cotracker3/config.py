"""Sizes of the network as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError

POSITION_DEGREES = 10
"""Displacements are encoded by sines at the frequencies 2^0 … 2^9."""

_COORDINATES = 4  # x and y of the displacements to the next and from the previous frame
_LOGITS = 2  # visibility and confidence


@dataclass(frozen=True, kw_only=True)
class CoTracker3Config(Checked):
    """Sizes of CoTracker3; the defaults are those of the published offline checkpoint."""

    feature_dim: Annotated[int, Range(8)] = 128
    """Channels of the feature maps; a multiple of 8."""
    stride_px: Annotated[int, Range(4, 4)] = 4
    """Pixels of one cell of the feature maps. The encoder is built for 4."""
    correlation_radius: Annotated[int, Range(1)] = 3
    """Patches of (2 r + 1)² cells are compared."""
    correlation_levels: Annotated[int, Range(1)] = 4
    """Feature maps, each half the size of the one before."""
    correlation_hidden_dim: Annotated[int, Range(1)] = 384
    """Hidden width of the network that reads the correlations of one level."""
    correlation_dim: Annotated[int, Range(1)] = 256
    """What it says about one level."""
    hidden_dim: Annotated[int, Range(1)] = 384
    """Width of the transformer; a multiple of the number of heads."""
    num_heads: Annotated[int, Range(1)] = 8
    """Attention heads."""
    time_depth: Annotated[int, Range(1)] = 3
    """Attention blocks over the frames of a track."""
    space_depth: Annotated[int, Range(1)] = 3
    """Attention blocks over the tracks of a frame; time_depth is a multiple of it."""
    num_virtual_tracks: Annotated[int, Range(1)] = 64
    """Learned tracks through which the others exchange what they know."""
    window_frames: Annotated[int, Range(2)] = 60
    """Frames for which the network was trained: 60 offline, 16 online."""
    height_px: Annotated[int, Range(32)] = 384
    """Image height for which it was trained; displacements are measured in it."""
    width_px: Annotated[int, Range(32)] = 512
    """Image width for which it was trained."""
    pads_windows: bool = False
    """Short windows are filled up with their last frame (online) instead of stretching the time embedding (offline)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, divisor in (("feature_dim", 8), ("hidden_dim", self.num_heads), ("time_depth", self.space_depth), ("window_frames", 2)):
            if getattr(self, name) % divisor:
                raise ConfigError(f"CoTracker3Config.{name} = {getattr(self, name)}: must be a multiple of {divisor}")

    @property
    def correlation_size(self) -> int:
        """Correlations of one point in one frame and level."""
        return (2 * self.correlation_radius + 1) ** 4

    @property
    def token_dim(self) -> int:
        """Length of a token: logits, correlations and encoded displacements."""
        return _LOGITS + self.correlation_levels * self.correlation_dim + _COORDINATES * (1 + 2 * POSITION_DEGREES)


OFFLINE = CoTracker3Config()
"""scaled_offline.pth: a whole clip at once."""

ONLINE = CoTracker3Config(window_frames=16, pads_windows=True)
"""scaled_online.pth: windows of 16 frames, 8 frames apart."""
