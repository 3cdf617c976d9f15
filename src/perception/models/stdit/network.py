"""STDiT: predicts the noise in the latents of a clip, with attention over space and time in turn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception.core.errors import InputError
from perception.models.parts.blocks import checkpointed
from perception.models.parts.positional_encoding import grid_encoding, line_encoding
from perception.models.stdit.blocks import FinalLayer, StditBlock
from perception.models.stdit.config import OPENSORA_16X256X256, StditConfig
from perception.models.stdit.embeddings import CaptionEmbedder, LatentEmbedder, TimestepEmbedder

_NARROW, _NARROW_STD = ("t_embedder.", "t_block.", "y_embedder."), 0.02
_ZERO = ("attn_temp.proj.weight", "cross_attn.proj.weight", "final_layer.linear.weight")
"""How layers start that are not as others; see `Stdit._initialise`."""


class Conditioning(NamedTuple):
    """What every block is told.

    captions (batch, tokens, dim) · kept (batch, 1, 1, tokens) bool, or None for all · step (batch, dim) · modulation (batch, 6, dim), of the step.
    """

    captions: Tensor
    kept: Tensor | None
    step: Tensor
    modulation: Tensor


class Stdit(nn.Module):
    """The network. Names of attributes are those of the checkpoint.

    `gradient_checkpointing = True` computes blocks again in the backward pass of training instead of keeping what happens inside them.
    """

    pos_embed: Tensor
    pos_embed_temporal: Tensor

    def __init__(self, config: StditConfig = OPENSORA_16X256X256) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        dim = config.hidden_dim
        frames, rows, cols = config.grid
        self.register_buffer("pos_embed", grid_encoding(rows, cols, dim, 1 / config.space_scale)[None])
        self.register_buffer("pos_embed_temporal", line_encoding(frames, dim, 1 / config.time_scale)[None])
        self.x_embedder = LatentEmbedder(config.latent_channels, dim, config.patch_size)
        self.t_embedder = TimestepEmbedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbedder(config.caption_dim, dim, config.num_caption_tokens)
        self.blocks = nn.ModuleList(StditBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)
        self._initialise()

    def _initialise(self) -> None:
        """As the released code starts: a new network predicts 0 and lets neither other frames nor captions change a token."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        for name, parameter in self.named_parameters():
            if name.startswith(_NARROW) and name.endswith("weight"):
                nn.init.normal_(parameter, std=_NARROW_STD)
            elif name.endswith(_ZERO):
                nn.init.zeros_(parameter)

    def forward(self, latents: Tensor, timesteps: Tensor, captions: Tensor, mask: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        """The noise in `latents`, and where its variance lies: (batch, 2 * channels, frames, height, width) float32.

        latents (batch, channels, frames, height, width) · timesteps (batch,) in [0, 1000) · captions (batch, tokens, caption_dim) · mask (batch,
        tokens), nonzero where a token counts, or None for all; a mask for fewer captions is repeated · dropped (batch,) bool: captions to replace by
        the empty prompt; by default drawn in training with the probability `caption_dropout`. Raises InputError where a size is not the config's.
        """
        tokens, conditioning = self.embed(latents, timesteps, captions, mask, dropped)
        return self.predict(self.run_blocks(tokens, conditioning, 0, self.config.depth), conditioning)

    def embed(
        self, latents: Tensor, timesteps: Tensor, captions: Tensor, mask: Tensor | None = None, dropped: Tensor | None = None
    ) -> tuple[Tensor, Conditioning]:
        """Tokens (batch, frames * cells, dim), frame by frame, with their places in it, and what the blocks are told; arguments of `forward`."""
        self._check(latents, timesteps, captions)
        kept = _repeated_mask(mask, latents.shape[0], self.config.num_caption_tokens)
        if dropped is None and self.training and self.config.caption_dropout > 0:
            dropped = torch.rand(len(captions), device=captions.device) < self.config.caption_dropout
        patches = self.x_embedder(latents.to(self.x_embedder.proj.weight.dtype))
        tokens = (patches.unflatten(1, (self.config.num_frames, -1)) + self.pos_embed.to(patches.dtype)).flatten(1, 2)
        step = self.t_embedder(timesteps)
        modulation = self.t_block(step).unflatten(1, (6, -1))
        return tokens, Conditioning(self.y_embedder(captions, dropped), kept, step, modulation)

    def run_blocks(self, tokens: Tensor, conditioning: Conditioning, start: int, stop: int) -> Tensor:
        """Tokens before block `start` → tokens before block `stop`, counted from 0."""
        for index in range(start, stop):
            positions = self.pos_embed_temporal if index == 0 or self.config.temporal_positions == "every_block" else None
            told = (conditioning.captions, conditioning.modulation, conditioning.kept, positions)
            tokens = checkpointed(self.blocks[index], tokens, *told, enabled=self.gradient_checkpointing and self.training)
        return tokens

    def predict(self, tokens: Tensor, conditioning: Conditioning) -> Tensor:
        """Tokens after the last block → the result of `forward`."""
        size = self.config.patch_size
        patches = self.final_layer(tokens, conditioning.step).unflatten(1, self.config.grid).unflatten(-1, (size, size, -1))
        return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(3, 4).flatten(4, 5).float()

    def null_prompt(self, batch: int) -> Tensor:
        """The learned empty prompt in the place of captions: (batch, tokens, caption_dim)."""
        return self.y_embedder.y_embedding.expand(batch, -1, -1)

    def _check(self, latents: Tensor, timesteps: Tensor, captions: Tensor) -> None:
        config = self.config
        wanted = (config.latent_channels, config.num_frames, config.height, config.width)
        if latents.ndim != 5 or tuple(latents.shape[1:]) != wanted:
            raise InputError(
                f"latents of shape {tuple(latents.shape)}: must be (batch, {', '.join(map(str, wanted))}), for which this network was built"
            )
        caption_size = (latents.shape[0], config.num_caption_tokens, config.caption_dim)
        if tuple(captions.shape) != caption_size:
            raise InputError(f"captions of shape {tuple(captions.shape)}: must be {caption_size} (batch, tokens, channels)")
        if tuple(timesteps.shape) != (latents.shape[0],):
            raise InputError(f"timesteps of shape {tuple(timesteps.shape)}: must be ({len(latents)},), one for each clip")


def _repeated_mask(mask: Tensor | None, batch: int, num_tokens: int) -> Tensor | None:
    """(batch, 1, 1, tokens) bool. A mask of fewer captions is repeated, as guidance calls the network for each prompt twice."""
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape[1] != num_tokens or not mask.shape[0] or batch % mask.shape[0]:
        raise InputError(f"caption mask of shape {tuple(mask.shape)}: must be (batch, {num_tokens}) with a batch that divides {batch}")
    kept = mask != 0
    if not torch.compiler.is_exporting() and not bool(kept.any(dim=1).all()):
        raise InputError("caption mask: leaves no token of a caption; pass the empty prompt (null_prompt) for clips without one")
    return kept.repeat(batch // mask.shape[0], 1)[:, None, None]
