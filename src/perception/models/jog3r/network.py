"""The stitch: tokens of one block of the video network, frame by frame, are the features that DUSt3R's decoders read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from perception.core.errors import ConfigError, InputError
from perception.models.dust3r import ClipDecoder, DecoderConfig, PairHeads, PointMap, make_head, read_head
from perception.models.jog3r.config import JOG3R, Jog3rConfig
from perception.models.parts.rotary import grid_positions, rotary_table
from perception.models.stdit import Stdit, freeze

_FIRST_TRAINED_BLOCK = 4


class Reconstruction(NamedTuple):
    """Point maps in the axes of the first frame's camera, up to one scale: of the first frame and of other frames, one for one.

    first and other: points (batch, others, height, width, 3), confidence (batch, others, height, width) from 1 upwards. Pairs give a map of the first
    frame with each other frame; one decoder for the clip gives the same map each time (a view, no copies).
    """

    first: PointMap
    other: PointMap


class Jog3rOutput(NamedTuple):
    """prediction: the noise and where its variance lies, as `Stdit.forward` gives them · features (batch, frames, cells, dim) · point maps."""

    prediction: Tensor
    features: Tensor
    reconstruction: Reconstruction


class ClipHead(ClipDecoder):
    """One decoder for all frames, and one linear head. Keys: decoder_embed, dec_blocks, dec_norm, downstream_head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.downstream_head = make_head(config)
        self._head_dim = config.dec_dim // config.dec_heads
        self._rotary_base = config.rotary_base

    def point_maps(self, features: Tensor, grid: tuple[int, int]) -> PointMap:
        """features (batch, frames, cells, dim) → points (batch, frames, height, width, 3) and confidence, in the axes of the first frame."""
        rotary = rotary_table(grid_positions(*grid, device=features.device), self._head_dim, self._rotary_base)
        layers = [layer.flatten(0, 1) for layer in self.decode(features, rotary)]
        return _unflattened(read_head(self.downstream_head, layers, grid), features.shape[1])


class Jog3r(nn.Module):
    """The network. Keys: those of the video network below `stdit`, those of DUSt3R's decoders and heads below `dust3r`.

    Nothing lies between the features and `decoder_embed`: no normalisation and no positions but the decoders' own (our reading; the paper is silent).
    """

    def __init__(self, config: Jog3rConfig = JOG3R) -> None:
        super().__init__()
        self.config = config
        self.stdit = Stdit(config.stdit)
        self.dust3r: PairHeads | ClipHead = PairHeads(config.decoder) if config.decoders == "pairs" else ClipHead(config.decoder)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        captions: Tensor | None = None,
        mask: Tensor | None = None,
        frames: Sequence[int] | None = None,
    ) -> Jog3rOutput:
        """Noise and point maps of latents (batch, channels, frames, height, width) in one pass.

        Arguments as in `Stdit.forward`, without captions the empty prompt; `frames` as in `reconstruct`.
        """
        stdit = self.stdit
        tokens, told = stdit.embed(latents, timesteps, self._captions(captions, len(latents)), mask)
        tapped = stdit.run_blocks(tokens, told, 0, self.config.feature_block + 1)
        prediction = stdit.predict(stdit.run_blocks(tapped, told, self.config.feature_block + 1, stdit.config.depth), told)
        features = tapped.unflatten(1, (stdit.config.num_frames, -1))
        return Jog3rOutput(prediction, features, self.reconstruct(features, frames))

    def features(self, latents: Tensor, timesteps: Tensor, captions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(batch, frames, cells, dim): what the decoders read. Blocks after the feature block are not run."""
        tokens, told = self.stdit.embed(latents, timesteps, self._captions(captions, len(latents)), mask)
        return self.stdit.run_blocks(tokens, told, 0, self.config.feature_block + 1).unflatten(1, (self.config.stdit.num_frames, -1))

    def reconstruct(self, features: Tensor, frames: Sequence[int] | None = None) -> Reconstruction:
        """Point maps from features (batch, frames, cells, dim).

        frames: which frames are the others, by default all but the first; training takes four at random. InputError for frames that are not there.
        """
        num_frames = self.config.stdit.num_frames
        others = list(range(1, num_frames)) if frames is None else list(frames)
        if not others or not all(1 <= frame < num_frames for frame in others):
            raise InputError(f"frames = {others}: must be frames of the clip but the first, from 1 to {num_frames - 1} (a clip of one has none)")
        grid = self.config.stdit.grid[1:]
        if isinstance(self.dust3r, ClipHead):
            maps = self.dust3r.point_maps(features, grid)
            first = PointMap(*(value[:, :1].expand(-1, len(others), *[-1] * (value.ndim - 2)) for value in maps))
            return Reconstruction(first, PointMap(*(value[:, others] for value in maps)))
        first_features = features[:, :1].expand(-1, len(others), -1, -1).flatten(0, 1)
        pairs = self.dust3r.point_maps(first_features, features[:, others].flatten(0, 1), grid, grid)
        return Reconstruction(
            _unflattened(PointMap(pairs.points1, pairs.confidence1), len(others)),
            _unflattened(PointMap(pairs.points2, pairs.confidence2), len(others)),
        )

    def freeze_video_network(self, trained: str = "temporal") -> None:
        """What the paper trains beside the decoders: "temporal" attention but for the first four blocks, or "nothing"."""
        if trained not in ("temporal", "nothing"):
            raise ConfigError(f"trained = {trained!r}: must be one of temporal, nothing")
        if trained == "nothing":
            self.stdit.requires_grad_(False)
        else:
            freeze(self.stdit, "not_temporal", min(_FIRST_TRAINED_BLOCK, self.config.feature_block))

    @property
    def gradient_checkpointing(self) -> bool:
        """Set it to True, and in train mode every block computes its inner values again in the backward pass."""
        return self.stdit.gradient_checkpointing and self.dust3r.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        self.stdit.gradient_checkpointing = self.dust3r.gradient_checkpointing = enabled

    def _captions(self, captions: Tensor | None, batch: int) -> Tensor:
        """(batch, tokens, caption_dim)"""
        return self.stdit.null_prompt(batch) if captions is None else captions


def _unflattened(maps: PointMap, num_frames: int) -> PointMap:
    """(batch * frames, …) → (batch, frames, …)"""
    return PointMap(*(value.unflatten(0, (-1, num_frames)) for value in maps))
