"""nano: its layouts turn with the image, it matches before any training, and files, folding and exports keep the descriptors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tests.support.textured_plane import random_texture
from torch import nn

from perception.core.errors import ConfigError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.nano import NanoConfig, NanoNetwork, extractor, read_nano, write_nano
from perception.models.nano.gradient_layouts import GradientLayouts
from perception.models.nano.network import folded
from perception.models.registry import create_extractor

THIN = NanoConfig(dim=24, widths=(16, 16, 24), depths=(1, 1, 1), pyramid=16)


def trained_looking(config: NanoConfig = THIN) -> NanoNetwork:
    """Random weights everywhere, so that no part is zero as it is before training."""
    generator = torch.Generator().manual_seed(0)
    network = NanoNetwork(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features, generator=generator) - 0.5
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1, generator=generator)
    return network.eval()


def written(path: Path, network: NanoNetwork | None = None) -> str:
    network = network if network is not None else trained_looking()
    write_nano(path, network.config, network.state_dict())
    return str(path)


def tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def test_layouts_of_a_turned_image_are_the_turned_layouts() -> None:
    """A quarter turn moves cells, the places within a layout, and the directions by a quarter of the bins."""
    image = random_texture(0)[:96, :96]
    layouts = GradientLayouts(bins=8, levels=4)
    _, before = layouts(tensor(image))
    _, after = layouts(tensor(np.rot90(image)))
    for (level, scale), (turned, turned_scale) in zip(before, after, strict=True):
        torch.testing.assert_close((turned * turned_scale).norm(dim=1), torch.ones_like(turned[:, 0]))
        torch.testing.assert_close(turned_scale, torch.rot90(scale, dims=(-2, -1)), rtol=1e-4, atol=1e-5)
        parts = torch.rot90(level.unflatten(1, (8, 4, 4)), dims=(-2, -1))  # cells
        parts = torch.rot90(parts, dims=(2, 3)).roll(-2, dims=1)  # places, then directions
        torch.testing.assert_close(turned, parts.flatten(1, 3), rtol=1e-4, atol=1e-5)


def test_layouts_ignore_gain_and_offset_of_the_brightness() -> None:
    image = tensor(random_texture(1)[:64, :64])
    darker = (image * 255 / 2).round() * 2 / 255  # even grey levels, so that half of them are whole
    layouts = GradientLayouts(bins=8, levels=4)
    for level, other in zip(layouts(darker)[1], layouts(darker / 2 + 20 / 255)[1], strict=True):
        torch.testing.assert_close(level[0] * level[1], other[0] * other[1], atol=5e-3, rtol=0)


@torch.inference_mode()
def test_an_untrained_network_finds_shifted_places() -> None:
    """Shifted by whole cells, the nearest neighbour of every inner cell is its own."""
    image = random_texture(2)
    network = NanoNetwork().eval()
    first, second = (nn.functional.normalize(network(tensor(part))[0], dim=0) for part in (image[:256, :256], image[32:288, 32:288]))
    query, items = first[:, 24:48, 24:48], second
    best = (query.flatten(1).T @ items.flatten(1)).argmax(1)
    rows, cols = torch.meshgrid(torch.arange(16, 40), torch.arange(16, 40), indexing="ij")
    assert (best == (rows * 64 + cols).flatten()).float().mean() > 0.95


@torch.inference_mode()
def test_folding_changes_nothing_but_the_form() -> None:
    network = trained_looking(NanoConfig())
    image = tensor(random_texture(3)[:64, :96])
    fast = folded(network)
    torch.testing.assert_close(*(nn.functional.normalize(part(image), dim=1) for part in (fast, network)), atol=1e-4, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(folded(fast)(image), fast(image))


@torch.inference_mode()
def test_batches_are_images_one_by_one() -> None:
    network = trained_looking()
    images = torch.cat([tensor(random_texture(seed)[:64, :64]) for seed in (0, 1, 2)])
    torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("form", [lambda network: network, folded])
def test_a_file_keeps_descriptors_and_sizes(form, tmp_path: Path) -> None:
    network = form(trained_looking())
    image = tensor(random_texture(4)[:64, :64])
    again = read_nano(Path(written(tmp_path / "nano.safetensors", network)))
    assert again.config == THIN
    assert torch.cosine_similarity(again(image), network(image), dim=1).min() > 0.9999


def test_the_file_of_the_default_network_is_below_10_mb(tmp_path: Path) -> None:
    assert Path(written(tmp_path / "nano.safetensors", NanoNetwork())).stat().st_size < 10e6


@pytest.mark.parametrize("size", [(50, 70), (64, 96), (1, 1), (33, 32)])
def test_any_size_is_padded_and_the_grid_cut(size: tuple[int, int], tmp_path: Path) -> None:
    image = random_texture(5)[: size[0], : size[1]]
    descriptors, grid = create_extractor(ExtractorConfig(extractor="nano", weights=written(tmp_path / "n.safetensors"), precision="float32")).extract(
        image
    )
    assert (grid.offset_px, grid.stride_px) == ((1.5, 1.5), (4.0, 4.0))
    assert descriptors.shape == (24, *(max(1, (side - 2) // 4 + 1) for side in size))
    expected = torch.zeros if size == (1, 1) else torch.ones  # one pixel has no gradient
    torch.testing.assert_close(descriptors.norm(dim=0), expected(descriptors.shape[1:]))


def test_descriptors_are_zero_where_the_image_is_flat_and_only_there() -> None:
    image = np.full((256, 320, 3), 128, np.uint8)
    nano = create_extractor(ExtractorConfig(extractor="nano", backend="torch"))
    assert not nano.extract(image)[0].any()
    image[100, 60] = 129
    descriptors, grid = nano.extract(image)
    lengths = descriptors.norm(dim=0)
    row, col = (round((place - offset) / stride) for place, offset, stride in zip((100, 60), grid.offset_px, grid.stride_px, strict=True))
    assert lengths[row, col] == pytest.approx(1, abs=1e-3)
    assert not lengths[:, col + 20 :].any()


def test_onnxruntime_and_bfloat16_give_the_same_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    config = ExtractorConfig(extractor="nano", weights=written(tmp_path / "nano.safetensors"), precision="float32")
    image = random_texture(6)[:80, :100]
    expected, grid = create_extractor(config).extract(image)
    exported, exported_grid = create_extractor(replace(config, backend="onnxruntime")).extract(image)
    assert exported_grid == grid
    torch.testing.assert_close(exported, expected, atol=1e-4, rtol=0)
    for precision, least in (("bfloat16", 0.99), ("float16", 0.999)):
        lower = create_extractor(replace(config, precision=precision)).extract(image)[0]  # type: ignore[arg-type]
        assert torch.cosine_similarity(lower, expected, dim=0).min() > least


def test_faint_gradients_survive_bfloat16() -> None:
    """A ramp of one grey level in 16 px near white: in bfloat16 grey levels above 128/255 are no longer told apart."""
    ramp = np.broadcast_to((200 + np.arange(64) // 16)[None, :, None], (64, 64, 3)).astype(np.uint8)
    layouts = GradientLayouts(bins=8, levels=2)
    exact = layouts(tensor(ramp))[0][0]
    rough = layouts.to(torch.bfloat16)(tensor(ramp).bfloat16())[0][0].float()
    assert exact.max() > 0
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=float(exact.max()) * 0.02)


def test_a_flat_image_gives_finite_descriptors_and_gradients() -> None:
    network = trained_looking().train()
    found = network(torch.full((1, 3, 32, 32), 0.5))
    found.square().sum().backward()
    assert found.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


def test_without_weights_the_error_says_where_they_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extractor, "SHIPPED_WEIGHTS", tmp_path / "nano.safetensors")
    with pytest.raises(WeightsError, match=r"nano: no weights at .*nano\.safetensors; give a file of `perception-train nano_pretrain`"):
        create_extractor(ExtractorConfig(extractor="nano"))
    written(tmp_path / "nano.safetensors")
    assert create_extractor(ExtractorConfig(extractor="nano")).name == "nano"


def test_files_that_are_not_of_nano_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"other\.safetensors: format None in its metadata; must be 'perception nano 1'"):
        create_extractor(ExtractorConfig(extractor="nano", weights=str(path)))
    write_nano(path, NanoConfig(), trained_looking().state_dict())
    with pytest.raises(WeightsError, match="belong to another architecture than NanoNetwork"):
        read_nano(path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: must be a safetensors file"):
        read_nano(tmp_path / "other.pth")


def test_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bins = 6: must be a multiple of 4"):
        NanoConfig(bins=6)
    with pytest.raises(ConfigError, match="2 widths, 4 depths, 4 levels"):
        NanoConfig(widths=(32, 64))
    with pytest.raises(ConfigError, match="stride_px = 8: must be 0 or 4 for nano"):
        create_extractor(ExtractorConfig(extractor="nano", weights=written(tmp_path / "n.safetensors"), stride_px=8))


def test_the_weights_that_ship_are_small_and_find_a_tilted_picture() -> None:
    """A picture and the same seen from aside: nearly all inner places are found within a cell, most not by chance or by place."""
    assert extractor.SHIPPED_WEIGHTS.stat().st_size < 10e6
    image = random_texture(3)[:256, :256]
    tilt = np.array([[0.9, 0.12, 8.0], [-0.1, 0.95, 20.0], [2e-4, -1e-4, 1.0]])
    tilted = cv2.warpPerspective(image, tilt, (256, 256), borderMode=cv2.BORDER_REFLECT)
    found = create_extractor(ExtractorConfig(extractor="nano", precision="float32"))
    (first, grid), (second, _) = found.extract(image), found.extract(tilted)
    rows, cols = torch.meshgrid(torch.arange(16, 48, 4), torch.arange(16, 48, 4), indexing="ij")
    cells = torch.stack([cols.flatten(), rows.flatten()], dim=1)
    pixels = (cells * torch.tensor(grid.stride_px) + torch.tensor(grid.offset_px)).numpy().astype(np.float64)
    truth = cv2.perspectiveTransform(pixels[None], tilt)[0]
    best = (first[:, cells[:, 1], cells[:, 0]].T @ second.flatten(1)).argmax(1)
    answers = np.stack([best % second.shape[2], best // second.shape[2]], axis=1) * np.array(grid.stride_px) + np.array(grid.offset_px)
    assert (np.linalg.norm(answers - truth, axis=1) < 4.0).mean() > 0.9
