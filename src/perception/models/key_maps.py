"""Official checkpoint names → names of our `transformers` models, for the projects that publish their own files.

Handled: DINO and DeiT (timm layout), MAE, DINOv2 with and without registers. All fuse q, k and v into one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from perception.core.errors import WeightsError

KeyMap = dict[str, str]

_STEM: KeyMap = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_PLAIN_BLOCK: KeyMap = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_DINOV2_BLOCK: KeyMap = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w3": "mlp.down_proj",
}
_DINOV2_STEM: KeyMap = {**_STEM, "mask_token": "embeddings.mask_token", "register_tokens": "embeddings.register_tokens"}
_DEIT_STEM: KeyMap = {**_STEM, "dist_token": "embeddings.distillation_token"}
_DROPPED = re.compile(r"^(head|head_dist|fc_norm|decoder_|mask_token$|teacher_|module\.head)")
_PREFIX = re.compile(r"^(module\.)?(backbone\.)?")
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+?)\.(weight|bias|gamma)$")


def _convert(state: Mapping[str, torch.Tensor], stem: KeyMap, block: KeyMap, layers: str, family: str) -> dict[str, torch.Tensor]:
    converted: dict[str, torch.Tensor] = {}
    for full_name, tensor in state.items():
        name = _PREFIX.sub("", full_name)
        match = _BLOCK.match(name)
        if name in stem:
            converted[stem[name]] = tensor
        elif match:
            converted |= _convert_block(f"{layers}.{match[1]}", match[2], match[3], tensor, block, full_name, family)
        elif not _DROPPED.match(name):
            raise WeightsError(f"weights: key {full_name!r} is not in an official {family} checkpoint; known are {', '.join(stem)} and blocks.<n>.…")
    return converted


def _convert_block(prefix: str, module: str, kind: str, tensor: torch.Tensor, block: KeyMap, full_name: str, family: str) -> dict[str, torch.Tensor]:
    """One tensor of a transformer block under its new name, or under several where it was fused."""
    if module == "attn.qkv":
        return {f"{prefix}.attention.{part}_proj.{kind}": piece for part, piece in zip("qkv", tensor.chunk(3), strict=True)}
    if module == "mlp.w12":
        return {f"{prefix}.mlp.{part}_proj.{kind}": piece for part, piece in zip(("gate", "up"), tensor.chunk(2), strict=True)}
    if kind == "gamma" and module in ("ls1", "ls2"):
        return {f"{prefix}.layer_scale{module[-1]}.lambda1": tensor}
    if module not in block:
        raise WeightsError(f"weights: key {full_name!r} is not in an official {family} checkpoint; known in a block are {', '.join(block)}, attn.qkv")
    return {f"{prefix}.{block[module]}.{kind}": tensor}


def from_dino(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """facebookresearch/dino backbones (also the full checkpoints: the backbone of the teacher) → ViTModel."""
    return _convert(state, _STEM, _PLAIN_BLOCK, "layers", "DINO")


def from_mae(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """facebookresearch/mae encoders; the decoder of full checkpoints is dropped → ViTMAEModel."""
    return _convert(state, _STEM, _PLAIN_BLOCK, "layers", "MAE")


def from_deit(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """facebookresearch/deit (timm layout) → ViTModel; with a distillation token → DeiTModel."""
    return _convert(state, _DEIT_STEM, _PLAIN_BLOCK, "layers", "DeiT")


def from_dinov2(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """facebookresearch/dinov2 with or without registers, SwiGLU included → Dinov2Model or Dinov2WithRegistersModel."""
    return _convert(state, _DINOV2_STEM, _DINOV2_BLOCK, "encoder.layer", "DINOv2")


KEY_MAPS: dict[str, Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "dino": from_dino,
    "mae": from_mae,
    "deit": from_deit,
    "deit_distilled": from_deit,
    "dinov2": from_dinov2,
    "dinov2_reg": from_dinov2,
}
"""Family → converter of its official checkpoints."""
