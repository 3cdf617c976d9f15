"""Vision transformers as dense extractors: patch tokens of any block, at the patch's stride or a finer one, for any image size.

The blocks are those of `transformers`; how tokens are cut out, where positions come from and which tokens are kept is decided here,
in one way for all families.
"""

from __future__ import annotations

import zlib
from functools import reduce
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from perception.core.errors import ConfigError, WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.extractor import ExtractorConfig
from perception.models.key_maps import KEY_MAPS
from perception.models.network_extractor import NetworkExtractor
from perception.models.vit_zoo import FAMILIES, VARIANTS, VitFamily, VitVariant
from perception.models.weights import load_into

_UNUSED = ("embeddings.mask_token",)


def interpolate_positions(positions: torch.Tensor, rows: int, cols: int, offset: float | None = 0.1, antialias: bool = False) -> torch.Tensor:
    """Position embeddings of a square grid (1, n * n, dim) on another grid: (1, rows * cols, dim), bicubic.

    offset is added to rows and cols before the scale is formed, as the DINO and DINOv2 code does to escape rounding (facebookresearch/dino
    issue 8); that shifts the samples a little, and networks were measured with it. None: exactly the size, as DINOv2 with registers.
    The embeddings come back unchanged where the grid is their own.
    """
    side = round(positions.shape[1] ** 0.5)
    if (rows, cols) == (side, side):
        return positions
    grid = positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if offset is None:
        grid = functional.interpolate(grid, size=(rows, cols), mode="bicubic", antialias=antialias)
    else:
        scale = ((rows + offset) / side, (cols + offset) / side)
        grid = functional.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
    assert grid.shape[-2:] == (rows, cols)
    return grid.permute(0, 2, 3, 1).reshape(1, rows * cols, -1).to(positions.dtype)


def _first_attribute(owner: Any, *paths: str) -> Any:
    """The first of several dotted attributes that is there."""
    for path in paths:
        try:
            return reduce(getattr, path.split("."), owner)
        except AttributeError:
            continue
    raise AssertionError(f"{type(owner).__name__} has none of {paths}")


class PatchTokens(nn.Module):
    """A DenseNetwork over a `transformers` vision model: image in [0, 1] → patch tokens of one block, class and register tokens dropped."""

    any_size = False
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, family: VitFamily, stride_px: int = 0, layer: int = -1, final_norm: bool = True) -> None:
        super().__init__()
        self.model = model
        self._family = family
        self._final_norm = final_norm
        embeddings: Any = model.embeddings
        self._projection: nn.Conv2d = _first_attribute(embeddings, "patch_embeddings.projection", "patch_embedding", "patch_embeddings")
        blocks = _first_attribute(model, "layers", "encoder.layer", "encoder.layers", "model.layer", "layer")
        self._norm = _first_attribute(model, "layernorm", "post_layernorm", "norm")
        self._pre_norm = getattr(model, "pre_layrnorm", None)
        self._rotary = getattr(model, "rope_embeddings", None)
        self.patch_px = self._projection.kernel_size[0]
        self.stride_px = stride_px or self.patch_px
        if self.stride_px > self.patch_px or (self._rotary is not None and self.stride_px != self.patch_px):
            allowed = f"{self.patch_px} (its rotary positions are tied to whole patches)" if self._rotary is not None else f"1 to {self.patch_px}"
            raise ConfigError(f"stride_px = {stride_px}: {type(model).__name__} takes {allowed}")
        if not -len(blocks) <= layer < len(blocks):
            raise ConfigError(f"layer = {layer}: {type(model).__name__} has {len(blocks)} blocks; allowed: {-len(blocks)} to {len(blocks) - 1}")
        self._blocks = list(blocks)[: (layer % len(blocks)) + 1]
        self.dim = self._projection.out_channels
        self.multiple_px = self.patch_px
        self.offset_px = (self.patch_px - 1) / 2
        mean, std = family.normalisation
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        own = self._own_positions()
        # Kept apart, so that a network moved to bfloat16 still interpolates the embeddings of the checkpoint.
        self._exact_positions = None if own is None else own.detach().float().clone()
        self._positions: dict[tuple[int, int], torch.Tensor] = {}

    def prepare(self, height: int, width: int) -> None:
        """Interpolate the position embeddings for this image size once, from the float32 weights."""
        size = (self._num_cells(height), self._num_cells(width))
        own = self._exact_positions
        if own is not None and size not in self._positions:
            count = len(self._prefix_tokens())
            patches = interpolate_positions(own[:, count:], *size, self._family.interpolation_offset, self._family.antialias)
            self._positions[size] = torch.cat((own[:, :count], patches), 1)

    def _num_cells(self, side_px: int) -> int:
        return 1 + (side_px - self.patch_px) // self.stride_px

    def _own_positions(self) -> torch.Tensor | None:
        """(1, prefix + n * n, dim), or None for rotary models."""
        embeddings: Any = self.model.embeddings
        if hasattr(embeddings, "position_embedding"):
            return embeddings.position_embedding.weight[None]
        return getattr(embeddings, "position_embeddings", None)

    def _prefix_tokens(self) -> list[torch.Tensor]:
        """Tokens before the patches that have a position: class, and distillation where there is one; each (1, 1, dim)."""
        embeddings: Any = self.model.embeddings
        tokens = [embeddings.class_embedding if hasattr(embeddings, "class_embedding") else embeddings.cls_token]
        if hasattr(embeddings, "distillation_token"):
            tokens.append(embeddings.distillation_token)
        return [token.reshape(1, 1, -1) for token in tokens]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (batch, 3, height, width) in [0, 1] RGB, sides multiples of the patch → (batch, dim, rows, cols), not normalised."""
        pixels = (image - self.mean) / self.std
        patches = functional.conv2d(pixels, self._projection.weight, self._projection.bias, stride=self.stride_px)
        rows, cols = patches.shape[-2:]
        prefix = [token.expand(image.shape[0], -1, -1) for token in self._prefix_tokens()]
        tokens = torch.cat((*prefix, patches.flatten(2).transpose(1, 2)), 1)
        if self._rotary is None:
            tokens = tokens + self._positions[rows, cols].to(tokens)
        registers = getattr(self.model.embeddings, "register_tokens", None)
        if registers is not None:
            registers = registers.expand(image.shape[0], -1, -1)
            tokens = torch.cat((tokens[:, : len(prefix)], registers, tokens[:, len(prefix) :]), 1)
        if self._pre_norm is not None:
            tokens = self._pre_norm(tokens)
        extra: dict[str, Any] = {"attention_mask": None}
        if self._rotary is not None:
            extra["position_embeddings"] = self._rotary(pixels)
        for block in self._blocks:
            output = block(tokens, **extra)
            tokens = output[0] if isinstance(output, tuple) else output
        if self._final_norm:
            tokens = self._norm(tokens)
        return tokens[:, -rows * cols :].transpose(1, 2).unflatten(2, (rows, cols))


def _empty_model(variant: VitVariant) -> nn.Module:
    """The variant's `transformers` model with random weights."""
    import transformers

    family = FAMILIES[variant.family]
    settings = {
        **{"hidden_size": variant.width, "num_hidden_layers": variant.depth, "num_attention_heads": variant.heads},
        **{"intermediate_size": 4 * variant.width, "patch_size": variant.patch_px, "image_size": variant.image_px},
        **family.settings,
        **variant.settings,
    }
    config = getattr(transformers, family.config)(**settings)
    model_class = getattr(transformers, family.model)
    return model_class(config, add_pooling_layer=False) if family.model in ("ViTModel", "DeiTModel") else model_class(config)


def random_model(variant: VitVariant, seed: int) -> nn.Module:
    """The variant with weights that depend on the seed only; vectors get noise too, so that no part of the network is without effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _empty_model(variant)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def load_official(variant: VitVariant, path: Path) -> nn.Module:
    """The variant with a checkpoint file of its own project, or with a file that has the names of `transformers`."""
    state = read_tensors(path)
    model = _empty_model(variant)
    if not any(name.startswith("embeddings.") for name in state):
        if variant.family not in KEY_MAPS:
            raise WeightsError(
                f"weights {path}: the official layout is read for {', '.join(KEY_MAPS)}; for {variant.family} give a hub name or a model folder"
            )
        state = KEY_MAPS[variant.family](state)
    load_into(model, state, str(path), _UNUSED)
    return model.eval()


def load_pretrained(variant: VitVariant, source: str, local: bool) -> nn.Module:
    """The variant from a hub name or, `local`, from a folder that `save_pretrained` wrote."""
    import transformers

    family = FAMILIES[variant.family]
    model_class = getattr(transformers, family.model)
    extra = {"add_pooling_layer": False} if family.model == "ViTModel" else {}
    try:
        model, report = model_class.from_pretrained(source, local_files_only=local, output_loading_info=True, dtype=torch.float32, **extra)
    except Exception as error:
        # transformers raises OSError, ValueError and RuntimeError for missing network, folder, config or shapes alike.
        kind = "folder" if local else "hub name"
        raise WeightsError(f"weights {source!r}: {family.model} cannot be loaded from this {kind} ({str(error).splitlines()[0][:300]})") from error
    missing = sorted(set(report["missing_keys"]) - set(_UNUSED))
    if missing:
        raise WeightsError(
            f"weights {source!r}: belong to another architecture than {family.model} ({len(missing)} missing: {', '.join(missing[:4])})"
        )
    if model.config.hidden_size != variant.width:
        raise WeightsError(f"weights {source!r}: tokens of length {model.config.hidden_size}, this extractor has {variant.width}")
    return cast(nn.Module, model.eval())


def create_vit(config: ExtractorConfig) -> NetworkExtractor:
    """All ViTs of the registry. `weights`: a file, a model folder, a hub name; empty: the variant's hub name, or random for the tiny ones."""
    variant = VARIANTS[config.extractor]
    source = config.weights or variant.hub
    path = Path(source).expanduser()
    if not source:
        model = random_model(variant, zlib.crc32(config.extractor.encode()))
    elif path.is_dir():
        model = load_pretrained(variant, str(path), local=True)
    elif path.is_file():
        model = load_official(variant, path)
    elif source.count("/") == 1 and not path.suffix and not source.startswith((".", "~")):
        model = load_pretrained(variant, source, local=False)
    else:
        raise WeightsError(f"weights = {config.weights!r}: no such file or folder, and no hub name (owner/model)")
    network = PatchTokens(model, FAMILIES[variant.family], config.stride_px, config.layer, config.final_norm)
    norm = "" if config.final_norm else ", no final norm"
    origin = path.name if path.exists() and source else source
    name = f"{config.extractor}(layer={config.layer}{norm}{', ' + origin if config.weights else ''})"
    return NetworkExtractor(name, network, config)
