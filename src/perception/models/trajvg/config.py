"""Sizes of the network as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception.models.pi3.config import BackboneConfig

FIRST_DEGREE, NUM_DEGREES = -2, 16
"""Coordinates are encoded by sines at the frequencies 2^-2 … 2^13."""

UPDATES = 4
"""What an iteration corrects of a point in a frame: x, y, z and the logit of its visibility."""


def encoded_dim(num_coordinates: int) -> int:
    """Length of encoded coordinates."""
    return num_coordinates * (1 + 2 * NUM_DEGREES)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Checked):
    """Sizes of the part that tracks; the defaults are those of the published checkpoint."""

    feature_dim: Annotated[int, Range(1)] = 128
    """Channels of the feature maps, and of what is said about the neighbours on one level."""
    stride_px: Annotated[int, Range(1)] = 2
    """Pixels of one cell of the feature maps."""
    num_levels: Annotated[int, Range(1)] = 4
    """Feature maps that are searched, each half the size of the one before."""
    num_neighbours: Annotated[int, Range(1)] = 16
    """Cells that a point is compared with on each level: the nearest in space."""
    hidden_dim: Annotated[int, Range(1)] = 384
    """Width of the transformer; a multiple of the number of heads."""
    num_heads: Annotated[int, Range(1)] = 8
    """Its attention heads."""
    depth: Annotated[int, Range(1)] = 6
    """Its blocks along time, and as many across tracks."""
    num_virtual_tracks: Annotated[int, Range(1)] = 64
    """Learned tracks through which the others exchange what they know."""
    num_iterations: Annotated[int, Range(1)] = 4
    """Corrections of the tracks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim % self.num_heads:
            raise ConfigError(f"TrackerConfig.hidden_dim = {self.hidden_dim}: must be a multiple of {self.num_heads}, the heads")

    @property
    def token_dim(self) -> int:
        """Length of a token: visibility, displacement since the first frame and position, both encoded, and correlations."""
        return 1 + 2 * encoded_dim(3) + self.num_levels * self.feature_dim


@dataclass(frozen=True, kw_only=True)
class TrajVGConfig(Checked):
    """Sizes and choices of TrajVG. The sizes' defaults are those of the published checkpoint; the choices' are for own training."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Encoder and decoder, those of Pi3."""
    head_dim: Annotated[int, Range(4)] = 1024
    """Width of the three small decoders before the heads."""
    head_num_heads: Annotated[int, Range(1)] = 16
    """Their attention heads."""
    head_depth: Annotated[int, Range(1)] = 5
    """Their blocks."""
    camera_dim: Annotated[int, Range(1)] = 512
    """Width of the camera head."""
    upsample_dims: tuple[int, ...] = (256, 128, 64)
    """Channels of the point and confidence heads after each doubling of the map."""
    feature_pairs: tuple[int, ...] = (0, 8, 13, 17)
    """Pairs of decoder blocks that the features for tracking are made from, finest level first."""
    reassembled_dims: tuple[int, ...] = (256, 512, 1024, 1024)
    """Channels that these become before they are fused."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """The part that tracks."""
    token_layout: Literal["corrected", "released"] = "corrected"
    """How tokens of the decoder become maps for tracking. corrected: each token is the cell of its patch. released: memory is cut anew, which mixes
    channels and cells; public checkpoints were trained so and work in no other way."""
    query_sampling: Literal["bilinear", "nearest"] = "bilinear"
    """How the point map is read at a query pixel. bilinear: as in the paper. nearest: as released, for public checkpoints."""
    tracks_move_points: bool = False
    """Whether the tracks' losses reach the point maps that the tracker measures in. Its finest encodings multiply these gradients by 2^13."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim % (4 * self.head_num_heads):
            raise ConfigError(f"TrajVGConfig.head_dim = {self.head_dim}: must be a multiple of {4 * self.head_num_heads}, four times the heads")
        for name in ("feature_pairs", "reassembled_dims"):
            if len(getattr(self, name)) != 4:
                raise ConfigError(f"TrajVGConfig.{name} = {list(getattr(self, name))}: must have 4 values, one for each level of the fusion")
        if not all(0 <= pair < self.backbone.num_pairs for pair in self.feature_pairs):
            last = self.backbone.num_pairs - 1
            raise ConfigError(f"TrajVGConfig.feature_pairs = {list(self.feature_pairs)}: must lie in [0, {last}], the decoder's pairs of blocks")
        if not self.upsample_dims:
            raise ConfigError("TrajVGConfig.upsample_dims = []: must have one value or more")


def trajvg_released() -> TrajVGConfig:
    """The public checkpoint trajvg_checkpoint.bin with the choices it was trained with; 1044.7 M parameters."""
    return TrajVGConfig(token_layout="released", query_sampling="nearest")


def trajvg_large() -> TrajVGConfig:
    """The published sizes with the corrected layout, for own training."""
    return TrajVGConfig()


def trajvg_tiny() -> TrajVGConfig:
    """For tests and debug recipes: fits one clip in seconds on a CPU."""
    return TrajVGConfig(
        backbone=BackboneConfig(dim=48, num_heads=4, encoder_depth=1, decoder_depth=4, image_px=56),
        head_dim=48,
        head_num_heads=4,
        head_depth=1,
        camera_dim=32,
        upsample_dims=(16, 16, 16),
        feature_pairs=(0, 0, 1, 1),
        reassembled_dims=(16, 16, 16, 16),
        tracker=TrackerConfig(feature_dim=16, hidden_dim=32, num_heads=4, depth=2, num_virtual_tracks=8, num_levels=2),
    )
