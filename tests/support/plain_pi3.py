"""Pi3 written straight from its description, over the weights of a `Pi3`: float32, all frames at once, attention as softmax of a stored matrix.

The slow twin of `perception.models.pi3`, for tests and `benchmarks/pi3_forward.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.pi3 import Pi3
from perception.models.vit import interpolate_positions


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _rotary(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """x (batch, heads, tokens, head_dim), positions (tokens, 2) as (y, x)."""
    turned = []
    for axis, part in enumerate(x.chunk(2, dim=-1)):
        dim = part.shape[-1]
        frequencies = 1.0 / base ** (torch.arange(0, dim, 2, device=x.device).float() / dim)
        angles = positions[:, axis, None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        turned.append(part * angles.cos() + _rotate_half(part) * angles.sin())
    return torch.cat(turned, dim=-1)


def _block(block: nn.Module, x: Tensor, positions: Tensor | None = None, base: float = 0.0) -> Tensor:
    """One transformer block on x (batch, tokens, dim)."""
    attention = block.attn
    batch, tokens, dim = x.shape
    qkv = attention.qkv(block.norm1(x)).reshape(batch, tokens, 3, attention.num_heads, dim // attention.num_heads).permute(2, 0, 3, 1, 4)
    query, key, value = attention.q_norm(qkv[0]), attention.k_norm(qkv[1]), qkv[2]
    if positions is not None:
        query, key = _rotary(query, positions, base), _rotary(key, positions, base)
    weights = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1)
    x = x + block.ls1(attention.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, dim)))
    return x + block.ls2(block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x)))))


def _encode(network: Pi3, images: Tensor) -> Tensor:
    encoder, patch = network.encoder, network.backbone_config.patch_px
    rows, cols = images.shape[-2] // patch, images.shape[-1] // patch
    patches = encoder.patch_embed((images - network.image_mean) / network.image_std)
    patches = patches + interpolate_positions(encoder.pos_embed[:, 1:], rows, cols, offset=None, antialias=True)
    first = encoder.cls_token + encoder.pos_embed[:, :1]
    x = torch.cat([first.expand(len(images), -1, -1), encoder.register_tokens.expand(len(images), -1, -1), patches], dim=1)
    for block in encoder.blocks:
        x = _block(block, x)
    return encoder.norm(x)[:, 1 + encoder.register_tokens.shape[1] :]


def plain_forward(network: Pi3, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """images (batch, frames, 3, height, width) → local points, world points, confidence logits and world_from_camera, shapes as of `Pi3Estimate`."""
    sizes, config = tuple(images.shape[:2]), network.backbone_config
    rows, cols = images.shape[-2] // config.patch_px, images.shape[-1] // config.patch_px
    patches = _encode(network, images.flatten(0, 1))
    x = torch.cat([network.register_token[0].expand(len(patches), -1, -1), patches], dim=1)
    tokens, registers, base = x.shape[1], config.decoder_registers, config.rotary_base
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), dim=-1).reshape(-1, 2) + 1
    positions = torch.cat([torch.zeros(registers, 2, dtype=torch.long), grid]).to(images.device)
    last = []
    for index, block in enumerate(network.decoder):
        if index % 2 == 0:
            x = _block(block, x.reshape(sizes[0] * sizes[1], tokens, -1), positions, base)
        else:
            x = _block(block, x.reshape(sizes[0], sizes[1] * tokens, -1), positions.repeat(sizes[1], 1), base)
        last = [*last[-1:], x.reshape(sizes[0] * sizes[1], tokens, -1)]
    features = torch.cat(last, dim=-1)
    hidden = []
    for decoder in (network.point_decoder, network.conf_decoder, network.camera_decoder):
        y = decoder.projects(features)
        for block in decoder.blocks:
            y = _block(block, y, positions, base)
        hidden.append(decoder.linear_out(y)[:, registers:].float())
    with torch.autocast(images.device.type, enabled=False):
        return _outputs(network, hidden, sizes, (rows, cols))


def _outputs(network: Pi3, hidden: list[Tensor], sizes: tuple[int, ...], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the heads make of the patches of points, confidence and camera, (frames, rows * cols, dim) each."""
    patch = network.backbone_config.patch_px
    raw = _pixels(network.point_head.proj(hidden[0]), *grid, patch)
    depth = raw[..., 2:].exp()
    local = torch.cat([raw[..., :2] * depth, depth], dim=-1).unflatten(0, sizes)
    confidence = _pixels(network.conf_head.proj(hidden[1]), *grid, patch)[..., 0].unflatten(0, sizes)
    pose = _poses(network, hidden[2]).unflatten(0, sizes)
    homogeneous = torch.cat([local, torch.ones_like(local[..., :1])], dim=-1)
    world = torch.einsum("bnij,bnhwj->bnhwi", pose, homogeneous)[..., :3]
    return local, world, confidence, pose


def _pixels(values: Tensor, rows: int, cols: int, patch: int) -> Tensor:
    """values (batch, rows * cols, channels * patch²) → (batch, height, width, channels)"""
    values = values.reshape(len(values), rows, cols, -1, patch, patch).permute(0, 1, 4, 2, 5, 3)
    return values.reshape(len(values), rows * patch, cols * patch, -1)


def _poses(network: Pi3, x: Tensor) -> Tensor:
    head = network.camera_head
    for block in head.res_conv:
        x = x + block.res_conv3(block.res_conv2(block.res_conv1(x).relu()).relu()).relu()
    x = head.more_mlps(x.mean(dim=1))
    transposed = functional.normalize(head.fc_rot(x).reshape(-1, 3, 3), dim=-1).transpose(-1, -2)
    u, _, vh = torch.linalg.svd(transposed)
    v = vh.transpose(-1, -2)
    signs = x.new_ones(len(x), 3)
    signs[:, 2] = torch.linalg.det(v @ u.transpose(-1, -2))
    pose = torch.eye(4, device=x.device).repeat(len(x), 1, 1)
    pose[:, :3, :3] = v @ torch.diag_embed(signs) @ u.transpose(-1, -2)
    pose[:, :3, 3] = head.fc_t(x)
    return pose
