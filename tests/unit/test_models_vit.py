"""Vision transformers: official checkpoints against a plain implementation, tokens against `transformers`, grids, strides and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.registry import create_extractor
from perception.models.vit import PatchTokens, interpolate_positions, load_official, random_model
from perception.models.vit_zoo import FAMILIES, VARIANTS, VitVariant

State = dict[str, torch.Tensor]
TINY = sorted(name for name in VARIANTS if name.startswith("tiny_"))
DIM, HEADS, DEPTH, SIDE = 24, 3, 2, 3


def image_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def config_of(name: str, **settings: object) -> ExtractorConfig:
    return ExtractorConfig(extractor=name, device="cpu", **{"precision": "float32", **settings})  # type: ignore[arg-type]


def official_state(patch: int, num_prefix: int, layer_scale: bool, swiglu: bool, registers: int) -> State:
    """Random tensors under the names and shapes of timm, DINO, MAE and DINOv2 checkpoints."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    hidden = 64 if swiglu else 4 * DIM  # two thirds of 4 * DIM, as DINOv2 giant rounds it
    state = {"cls_token": random(1, 1, DIM), "pos_embed": random(1, num_prefix + SIDE**2, DIM), "norm.weight": random(DIM), "norm.bias": random(DIM)}
    state |= {"patch_embed.proj.weight": random(DIM, 3, patch, patch), "patch_embed.proj.bias": random(DIM)}
    if num_prefix == 2:
        state["dist_token"] = random(1, 1, DIM)
    if registers:
        state["register_tokens"] = random(1, registers, DIM)
    for index in range(DEPTH):
        block = f"blocks.{index}."
        shapes = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM)}
        shapes |= {"mlp.w12": (2 * hidden, DIM), "mlp.w3": (DIM, hidden)} if swiglu else {"mlp.fc1": (hidden, DIM), "mlp.fc2": (DIM, hidden)}
        for name, shape in shapes.items():
            state |= {f"{block}{name}.weight": random(*shape), f"{block}{name}.bias": random(shape[0])}
        for name in ("norm1", "norm2"):
            state |= {f"{block}{name}.weight": 1 + random(DIM), f"{block}{name}.bias": random(DIM)}
        if layer_scale:
            state |= {f"{block}ls1.gamma": random(DIM), f"{block}ls2.gamma": random(DIM)}
    return state


def plain_tokens(state: State, pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """The transformer of the papers, written out for an image of the checkpoint's own size: (1, dim, rows, cols)."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    unfolded = pixels[0].unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    x = unfolded @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    prefix = [state[name][0] for name in ("cls_token", "dist_token") if name in state]
    x = torch.cat((*prefix, x)) + state["pos_embed"][0]
    if "register_tokens" in state:
        x = torch.cat((x[:1], state["register_tokens"][0], x[1:]))
    for index in range(DEPTH):
        block = f"blocks.{index}."
        q, k, v = linear(f"{block}attn.qkv", norm(f"{block}norm1", x)).view(len(x), 3, HEADS, DIM // HEADS).permute(1, 2, 0, 3)
        attended = torch.softmax(q @ k.transpose(1, 2) / (DIM // HEADS) ** 0.5, -1) @ v
        x = x + state.get(f"{block}ls1.gamma", torch.ones(())) * linear(f"{block}attn.proj", attended.transpose(0, 1).flatten(1))
        inner = norm(f"{block}norm2", x)
        if f"{block}mlp.w12.weight" in state:
            gate, up = linear(f"{block}mlp.w12", inner).chunk(2, -1)
            inner = linear(f"{block}mlp.w3", functional.silu(gate) * up)
        else:
            inner = linear(f"{block}mlp.fc2", functional.gelu(linear(f"{block}mlp.fc1", inner)))
        x = x + state.get(f"{block}ls2.gamma", torch.ones(())) * inner
    return norm("norm", x)[-(SIDE**2) :].T.reshape(1, DIM, SIDE, SIDE)


OFFICIAL = {
    "dino": ("dino", 8, 1, False, False, 0, {"head.weight": (3, DIM)}),
    "mae": ("mae", 16, 1, False, False, 0, {"mask_token": (1, 1, 8), "decoder_embed.weight": (8, DIM)}),
    "deit": ("deit", 16, 1, False, False, 0, {"head.bias": (10,)}),
    "deit_distilled": ("deit_distilled", 16, 2, False, False, 0, {"head_dist.bias": (10,)}),
    "dinov2": ("dinov2", 14, 1, True, False, 0, {"mask_token": (1, DIM)}),
    "dinov2_giant": ("dinov2", 14, 1, True, True, 0, {}),
    "dinov2_reg": ("dinov2_reg", 14, 1, True, False, 4, {"mask_token": (1, DIM)}),
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_official_checkpoints_equal_a_plain_transformer(case: str, tmp_path: Path) -> None:
    family, patch, num_prefix, layer_scale, swiglu, registers, extra = OFFICIAL[case]
    state = official_state(patch, num_prefix, layer_scale, swiglu, registers)
    variant = VitVariant(family, patch, patch * SIDE, DIM, DEPTH, HEADS, settings={"use_swiglu_ffn": True} if swiglu else {})
    saved = {**state, **{name: torch.zeros(shape) for name, shape in extra.items()}}
    path = tmp_path / "official.pth"
    torch.save({"teacher": {f"module.backbone.{name}": value for name, value in saved.items()}} if case == "dino" else {"model": saved}, path)

    network = PatchTokens(load_official(variant, path), FAMILIES[family])
    image = torch.rand(1, 3, patch * SIDE, patch * SIDE, generator=torch.Generator().manual_seed(1))
    network.prepare(*image.shape[-2:])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in FAMILIES[family].normalisation)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), plain_tokens(state, (image - mean) / std, patch), rtol=1e-4, atol=1e-4)


def test_official_checkpoint_of_another_model_names_the_keys(tmp_path: Path) -> None:
    variant = VitVariant("dino", 8, 8 * SIDE, DIM, DEPTH, HEADS)
    path = tmp_path / "official.pth"
    state = official_state(8, 1, False, False, 0)
    torch.save({name: value for name, value in state.items() if name != "blocks.1.mlp.fc2.bias"}, path)
    with pytest.raises(WeightsError, match=r"another architecture than ViTModel \(1 missing: layers.1.mlp.fc2.bias\)"):
        load_official(variant, path)
    torch.save({**state, "stages.0.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"'stages.0.weight' is not in an official DINO checkpoint"):
        load_official(variant, path)
    torch.save({**state, "norm.weight": torch.zeros(7)}, path)
    with pytest.raises(WeightsError, match=r"1 other shape: layernorm.weight \(7,\) instead of \(24,\)"):
        load_official(variant, path)
    with pytest.raises(WeightsError, match="the official layout is read for"):
        load_official(VitVariant("clip", 8, 24, DIM, DEPTH, HEADS), path)


@pytest.mark.parametrize("name", TINY)
def test_tokens_equal_the_transformers_model_at_its_own_size(name: str) -> None:
    variant = VARIANTS[name]
    model = random_model(variant, seed=3)
    network = PatchTokens(model, FAMILIES[variant.family])
    side = variant.image_px
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    network.prepare(side, side)
    with torch.inference_mode():
        pixels = (image - network.mean) / network.std
        if variant.family == "mae":  # its forward hides patches; without hiding none it is a ViT
            model.config.mask_ratio = 0.0
            noise = torch.arange((side // variant.patch_px) ** 2)[None].float()
            hidden = model(pixels, noise=noise).last_hidden_state
        else:
            hidden = model(pixels).last_hidden_state
        if variant.family == "clip":
            hidden = model.post_layernorm(hidden)
        expected = hidden[:, -((side // variant.patch_px) ** 2) :].transpose(1, 2).unflatten(2, (side // variant.patch_px,) * 2)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_any_image_size_gives_a_grid_inside_the_image(name: str) -> None:
    patch = VARIANTS[name].patch_px
    image = image_of(3 * patch + 5, 4 * patch + patch // 2 + 2)
    padded, grid = create_extractor(config_of(name)).extract(image)
    assert grid.stride_px == (patch, patch)
    assert grid.offset_px == ((patch - 1) / 2, (patch - 1) / 2)
    assert padded.shape == (48, 3, 5)  # the last column of cells is centred inside the image, the last row is not
    torch.testing.assert_close(padded.norm(dim=0), torch.ones(3, 5))
    resized, grid = create_extractor(config_of(name, fit="resize")).extract(image)
    assert resized.shape == (48, 3, 5)
    assert grid.stride_px == pytest.approx((image.shape[1] / 5, image.shape[0] / 3))
    assert grid.offset_px[0] == pytest.approx(grid.stride_px[0] / 2 - 0.5)


def test_same_name_gives_same_weights_and_layers_differ() -> None:
    image = image_of(56, 56)
    first, _ = create_extractor(config_of("tiny_dinov2")).extract(image)
    torch.manual_seed(99)
    second, _ = create_extractor(config_of("tiny_dinov2")).extract(image)
    assert torch.equal(first, second)
    by_index, _ = create_extractor(config_of("tiny_dinov2", layer=1)).extract(image)
    assert torch.equal(first, by_index)
    for settings in ({"layer": 0}, {"final_norm": False}):
        extractor = create_extractor(config_of("tiny_dinov2", **settings))
        assert not torch.allclose(extractor.extract(image)[0], first, atol=1e-3)
        assert extractor.name != "tiny_dinov2(layer=-1)"


def test_finer_stride_cuts_patches_between_the_patches() -> None:
    """Without positions and attention every second fine token is the coarse token: checked on the patch embedding alone."""
    model = random_model(VARIANTS["tiny_dinov2"], seed=0)
    family = FAMILIES["dinov2"]
    coarse, fine = PatchTokens(model, family), PatchTokens(model, family, stride_px=7)
    for network in (coarse, fine):
        network._blocks = []
        network._exact_positions = torch.zeros(1, 17, 48)
        network.prepare(56, 70)
    image = torch.rand(1, 3, 56, 70, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert fine(image).shape == (1, 48, 7, 9)
        torch.testing.assert_close(fine(image)[:, :, ::2, ::2], coarse(image))


def test_bfloat16_keeps_positions_of_the_checkpoint() -> None:
    image = image_of(70, 70)
    exact, _ = create_extractor(config_of("tiny_dinov2")).extract(image)
    extractor = create_extractor(config_of("tiny_dinov2", precision="bfloat16"))
    extractor.extract(image_of(56, 56))  # the network is in bfloat16 from here on
    rounded, _ = extractor.extract(image)
    assert rounded.dtype == torch.float32
    assert (exact * rounded).sum(0).min() > 0.995


def test_interpolation_of_positions() -> None:
    own = torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(0))
    assert interpolate_positions(own, 4, 4) is own
    for offset in (0.1, None):
        assert interpolate_positions(own, 3, 9, offset).shape == (1, 27, 5)
    constant = interpolate_positions(torch.ones(1, 16, 5), 7, 6)
    torch.testing.assert_close(constant, torch.ones(1, 42, 5))


def test_local_folder(tmp_path: Path) -> None:
    model = random_model(VARIANTS["tiny_dinov2"], seed=11)
    model.save_pretrained(tmp_path / "model")
    image = image_of(56, 56)
    descriptors, _ = create_extractor(config_of("tiny_dinov2", weights=str(tmp_path / "model"))).extract(image)
    network = PatchTokens(model, FAMILIES["dinov2"])
    network.prepare(56, 56)
    with torch.inference_mode():
        raw = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    torch.testing.assert_close(descriptors, functional.normalize(raw, dim=0))
    with pytest.raises(WeightsError, match=r"cannot be loaded from this folder|another architecture"):
        create_extractor(config_of("tiny_dino", weights=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extractor": "tiny_dinov2", "layer": 2}, r"layer = 2: Dinov2Model has 2 blocks; allowed: -2 to 1"),
        ({"extractor": "tiny_dinov2", "stride_px": 15}, r"stride_px = 15: Dinov2Model takes 1 to 14"),
        ({"extractor": "tiny_dinov3", "stride_px": 8}, r"stride_px = 8: DINOv3ViTModel takes 16 \(its rotary positions"),
        ({"extractor": "tiny_dinov2", "weights": "/nowhere/at/all.pth"}, r"no such file or folder, and no hub name"),
    ],
)
def test_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, WeightsError, InputError), match=message):
        create_extractor(ExtractorConfig(device="cpu", **settings))  # type: ignore[arg-type]


def test_hub_name_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="'nobody-here/no-model': Dinov2Model cannot be loaded from this hub name"):
        create_extractor(config_of("tiny_dinov2", weights="nobody-here/no-model"))
