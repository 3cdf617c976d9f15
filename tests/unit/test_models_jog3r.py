"""JOG3R: both kinds of decoders, what a loss trains, and what can be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from perception.core.errors import ConfigError, InputError
from perception.models.jog3r import JOG3R, Jog3r, Jog3rConfig, reconstruct_clip, tiny
from perception.models.networks import create_network

KINDS: tuple[Literal["pairs", "clip"], ...] = ("pairs", "clip")


def awake(kind: Literal["pairs", "clip"]) -> Jog3r:
    """A network in which nothing starts at 0."""
    torch.manual_seed(0)
    network = Jog3r(tiny(kind))
    for parameter in network.stdit.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def clip(batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 4, 4, 4, 4), torch.full((batch,), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_noise_and_points_of_all_frames(kind: Literal["pairs", "clip"]) -> None:
    network = awake(kind)
    latents, steps = clip()
    output = network(latents, steps)
    assert output.prediction.shape == (2, 8, 4, 4, 4)
    assert output.features.shape == (2, 4, 4, 32)
    for maps in output.reconstruction:
        assert maps.points.shape == (2, 3, 32, 32, 3)
        assert maps.confidence.shape == (2, 3, 32, 32)
        assert maps.confidence.min() >= 1
    torch.testing.assert_close(output.prediction, network.stdit(latents, steps, network.stdit.null_prompt(2)))
    chosen = network.reconstruct(network.features(latents, steps), [3, 1])
    torch.testing.assert_close(chosen.other.points, output.reconstruction.other.points[:, [2, 0]])
    torch.testing.assert_close(chosen.first.points, output.reconstruction.first.points[:, [2, 0]])


def test_one_decoder_for_the_clip_sees_all_frames_and_pairs_only_two() -> None:
    for kind, sees in zip(KINDS, (False, True), strict=True):
        network = awake(kind)
        features = torch.randn(1, 4, 4, 32)
        changed = features.clone()
        changed[:, 3] += 1
        before, after = (network.reconstruct(values, [1]).other.points for values in (features, changed))
        assert torch.allclose(before, after) != sees


@pytest.mark.parametrize("kind", KINDS)
def test_the_reconstruction_trains_blocks_up_to_the_feature_block_and_all_of_the_decoders(kind: Literal["pairs", "clip"]) -> None:
    network = awake(kind).train()
    gradients = []
    for checkpointing in (False, True):
        network.gradient_checkpointing = checkpointing
        network.zero_grad()
        torch.manual_seed(1)
        for maps in network(*clip()).reconstruction:
            (maps.points.square().mean() + maps.confidence.mean()).backward(retain_graph=True)
        gradients.append({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    reached = {name for name, value in gradients[0].items() if value.any()}
    later = {name for name, _ in network.named_parameters() if name.startswith(("stdit.blocks.2.", "stdit.final_layer."))}
    assert reached == {name for name, _ in network.named_parameters()} - later
    for name in reached:
        torch.testing.assert_close(gradients[1][name], gradients[0][name])


@pytest.mark.parametrize("kind", KINDS)
def test_one_clip_is_learnt_by_heart(kind: Literal["pairs", "clip"]) -> None:
    torch.manual_seed(0)
    network = Jog3r(tiny(kind)).train()
    latents, steps = clip(1)
    truth = torch.rand(1, 3, 32, 32, 3).mean((2, 3), keepdim=True) + torch.linspace(0, 1, 32)[:, None, None]
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=0)
    history = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (network.reconstruct(network.features(latents, steps)).other.points - truth).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.1 * history[0]


def test_a_clip_is_reconstructed_with_little_noise_from_a_seed() -> None:
    network, latents = awake("pairs"), clip(1)[0]
    first, again, noisier = (reconstruct_clip(network, latents, step).other.points for step in (0, 0, 5))
    assert torch.equal(first, again)
    assert not first.requires_grad
    clean = network.reconstruct(network.features(latents, torch.zeros(1))).other.points
    assert 0 < (first - clean).norm() < (noisier - clean).norm() < clean.norm()
    with pytest.raises(ConfigError, match=r"step = 100: must lie in \[0, 99\]"):
        reconstruct_clip(network, latents, 100)


def test_the_paper_trains_temporal_attention_after_the_first_blocks_and_the_decoders() -> None:
    config = replace(tiny(), stdit=replace(tiny().stdit, depth=6), feature_block=5)
    network = Jog3r(config)
    network.freeze_video_network()
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    video = {name for name in trained if name.startswith("stdit.")}
    assert video == {f"stdit.blocks.{block}.attn_temp.{part}.{kind}" for block in (4, 5) for part in ("qkv", "proj") for kind in ("weight", "bias")}
    assert trained - video == {name for name, _ in network.named_parameters() if name.startswith("dust3r.")}
    network.freeze_video_network("nothing")
    assert not any(value.requires_grad for value in network.stdit.parameters())
    with pytest.raises(ConfigError, match="trained = 'all'"):
        network.freeze_video_network("all")


def test_the_papers_sizes() -> None:
    assert (JOG3R.feature_block, JOG3R.decoder.dec_depth, JOG3R.decoder.feature_dim, JOG3R.stdit.depth) == (25, 6, 1152, 28)
    network = create_network("jog3r", "tiny")
    assert isinstance(network, Jog3r)


def test_wrong_sizes_are_one_sentence() -> None:
    network = awake("pairs")
    features = torch.randn(1, 4, 4, 32)
    for frames in ([], [0], [4]):
        with pytest.raises(InputError, match=r"frames = .*: must be frames of the clip but the first, from 1 to 3"):
            network.reconstruct(features, frames)
    base = tiny()
    for wrong, message in (
        ({"feature_block": 3}, r"feature_block = 3: must lie in \[0, 2\]"),
        ({"decoder": replace(base.decoder, feature_dim=64)}, "feature_dim = 64: must be 32"),
        ({"decoder": replace(base.decoder, patch_px=8)}, "patch_px = 8: must be 16"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(base, **wrong)
    with pytest.raises(ConfigError, match="stdit"):
        Jog3rConfig(stdit=base.decoder)  # type: ignore[arg-type]
    alone = Jog3r(replace(base, stdit=replace(base.stdit, num_frames=1)))
    with pytest.raises(InputError, match="a clip of one has none"):
        alone(torch.randn(1, 4, 1, 4, 4), torch.zeros(1))
