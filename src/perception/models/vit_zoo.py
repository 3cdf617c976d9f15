"""Which vision transformers are known by name: family, size, hub name and input normalisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class VitFamily:
    """What the models of one project have in common.

    model and config are classes of `transformers` · mean, std of the input in [0, 1] RGB · interpolation_offset is added to the number of cells
    before the position embeddings are scaled (0.1 in the DINO code; None: scaled to the size itself) · settings of the config class.
    """

    model: str
    config: str
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    interpolation_offset: float | None = 0.1
    antialias: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VitVariant:
    """One model: family, shape, and the hub name that is loaded without `weights` (empty: random weights, for tests)."""

    family: str
    patch_px: int
    image_px: int
    width: int
    depth: int
    heads: int
    hub: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, VitFamily] = {
    "dino": VitFamily("ViTModel", "ViTConfig", settings={"layer_norm_eps": 1e-6}),
    "deit": VitFamily("ViTModel", "ViTConfig", settings={"layer_norm_eps": 1e-6}),
    "deit_distilled": VitFamily("DeiTModel", "DeiTConfig", settings={"layer_norm_eps": 1e-6}),
    "mae": VitFamily("ViTMAEModel", "ViTMAEConfig", settings={"layer_norm_eps": 1e-6}),
    "dinov2": VitFamily("Dinov2Model", "Dinov2Config"),
    "dinov2_reg": VitFamily(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", interpolation_offset=None, antialias=True, settings={"num_register_tokens": 4}
    ),
    "dinov3": VitFamily("DINOv3ViTModel", "DINOv3ViTConfig", settings={"num_register_tokens": 4}),
    "clip": VitFamily("CLIPVisionModel", "CLIPVisionConfig", normalisation=CLIP),
}

_SMALL, _BASE, _LARGE, _GIANT = (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1536, 40, 24)
_TINY = (48, 2, 3)

VARIANTS: dict[str, VitVariant] = {
    "dino_small16": VitVariant("dino", 16, 224, *_SMALL, "facebook/dino-vits16"),
    "dino_small8": VitVariant("dino", 8, 224, *_SMALL, "facebook/dino-vits8"),
    "dino_base16": VitVariant("dino", 16, 224, *_BASE, "facebook/dino-vitb16"),
    "dino_base8": VitVariant("dino", 8, 224, *_BASE, "facebook/dino-vitb8"),
    "deit_small": VitVariant("deit", 16, 224, *_SMALL, "facebook/deit-small-patch16-224"),
    "deit_base": VitVariant("deit", 16, 224, *_BASE, "facebook/deit-base-patch16-224"),
    "deit_base_distilled": VitVariant("deit_distilled", 16, 224, *_BASE, "facebook/deit-base-distilled-patch16-224"),
    "mae_base": VitVariant("mae", 16, 224, *_BASE, "facebook/vit-mae-base"),
    "mae_large": VitVariant("mae", 16, 224, *_LARGE, "facebook/vit-mae-large"),
    "dinov2_small": VitVariant("dinov2", 14, 518, *_SMALL, "facebook/dinov2-small"),
    "dinov2_base": VitVariant("dinov2", 14, 518, *_BASE, "facebook/dinov2-base"),
    "dinov2_large": VitVariant("dinov2", 14, 518, *_LARGE, "facebook/dinov2-large"),
    "dinov2_giant": VitVariant("dinov2", 14, 518, *_GIANT, "facebook/dinov2-giant", {"use_swiglu_ffn": True}),
    "dinov2_reg_small": VitVariant("dinov2_reg", 14, 518, *_SMALL, "facebook/dinov2-with-registers-small"),
    "dinov2_reg_base": VitVariant("dinov2_reg", 14, 518, *_BASE, "facebook/dinov2-with-registers-base"),
    "dinov2_reg_large": VitVariant("dinov2_reg", 14, 518, *_LARGE, "facebook/dinov2-with-registers-large"),
    "dinov2_reg_giant": VitVariant("dinov2_reg", 14, 518, *_GIANT, "facebook/dinov2-with-registers-giant", {"use_swiglu_ffn": True}),
    "dinov3_small": VitVariant("dinov3", 16, 224, *_SMALL, "facebook/dinov3-vits16-pretrain-lvd1689m"),
    "dinov3_base": VitVariant("dinov3", 16, 224, *_BASE, "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    "dinov3_large": VitVariant("dinov3", 16, 224, *_LARGE, "facebook/dinov3-vitl16-pretrain-lvd1689m"),
    "clip_base16": VitVariant("clip", 16, 224, *_BASE, "openai/clip-vit-base-patch16"),
    "clip_large14": VitVariant("clip", 14, 224, *_LARGE, "openai/clip-vit-large-patch14"),
    "tiny_dino": VitVariant("dino", 16, 64, *_TINY),
    "tiny_deit": VitVariant("deit", 16, 64, *_TINY),
    "tiny_deit_distilled": VitVariant("deit_distilled", 16, 64, *_TINY),
    "tiny_mae": VitVariant("mae", 16, 64, *_TINY),
    "tiny_dinov2": VitVariant("dinov2", 14, 56, *_TINY),
    "tiny_dinov2_reg": VitVariant("dinov2_reg", 14, 56, *_TINY),
    "tiny_dinov3": VitVariant("dinov3", 16, 64, *_TINY),
    "tiny_clip": VitVariant("clip", 16, 64, *_TINY),
}
"""Every ViT extractor by name. The `tiny` ones have random weights that depend on the name only."""
