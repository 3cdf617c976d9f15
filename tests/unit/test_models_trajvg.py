"""TrajVG with small random networks: invariants that hold for any weights. The official outputs are compared in tests/parity."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from tests.support.closeness import assert_close

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.models.networks import create_network
from perception.models.pi3 import Pi3, pi3_tiny
from perception.models.pi3 import memory as memory_module
from perception.models.trajvg import Tracker, TrackerConfig, TrajVG, TrajVGConfig, query_grid, trajvg_large, trajvg_tiny
from perception.models.trajvg import correlation as correlation_module
from perception.models.trajvg import network as network_module
from perception.models.trajvg.track_features import TrackFeatures, patches_as_released

SIZES = trajvg_tiny()
RELEASED_SIZES = dataclasses.replace(SIZES, token_layout="released", query_sampling="nearest")
HEIGHT, WIDTH = 56, 70
CHAOS = 2e-3
"""How far a correction may differ where float32 rounds differently before it: encodings multiply coordinates by 2^13."""


def network(config=SIZES):
    torch.manual_seed(5)
    return TrajVG(config).eval()


def livelier(model):
    """The same network with corrections that are not tiny, as they are before training."""
    torch.nn.init.normal_(model.tracker.updateformer.flow_head.weight, std=0.1)
    return model


def clip(num_frames=3, batch=1, seed=0):
    return torch.rand(batch, num_frames, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def pixels(count=6, batch=1, seed=1):
    return torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])


def run(model, images, queries=None, iterations=None):
    with torch.inference_mode():
        return model(images, queries, iterations)


def tracker_inputs(num_frames=3, count=5, seed=2):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, num_frames, SIZES.tracker.feature_dim, 20, 24, generator=generator)
    maps = torch.randn(1, num_frames, 3, 40, 48, generator=generator)
    queries = torch.rand(1, count, 2, generator=generator) * torch.tensor([47.0, 39.0])
    return features, maps, queries, torch.randn(1, count, 3, generator=generator)


def small_tracker():
    torch.manual_seed(4)
    tracker = Tracker(SIZES.tracker).eval()
    torch.nn.init.normal_(tracker.updateformer.flow_head.weight, std=0.05)
    return tracker


def test_shapes_and_world_points_fit_together():
    estimate = run(network(), clip(3, 2), pixels(4, 2))
    assert estimate.local_points.shape == estimate.world_points.shape == (2, 3, HEIGHT, WIDTH, 3)
    assert estimate.confidence.shape == (2, 3, HEIGHT, WIDTH)
    assert estimate.world_from_camera.shape == (2, 3, 4, 4)
    assert len(estimate.tracks) == SIZES.tracker.num_iterations
    assert estimate.tracks[-1].points.shape == (2, 3, 4, 3)
    assert estimate.tracks[-1].visibility.shape == (2, 3, 4)
    assert float(estimate.local_points[..., 2].min()) > 0
    pose = estimate.world_from_camera[1, 2]
    for local, world in (
        (estimate.local_points[1, 2].flatten(0, 1), estimate.world_points[1, 2].flatten(0, 1)),
        (estimate.tracks[-1].points[1, 2], estimate.world_tracks()[-1][1, 2]),
    ):
        assert_close(local @ pose[:3, :3].T + pose[:3, 3], world)


def test_clips_of_a_batch_do_not_influence_each_other():
    model, images, queries = livelier(network()), clip(2, 2), pixels(4, 2)
    both, alone = run(model, images, queries), run(model, images[1:], queries[1:])
    assert_close(both.local_points[1:], alone.local_points)
    assert_close(both.tracks[0].points[1:], alone.tracks[0].points, rtol=0, atol=CHAOS)


def test_one_frame_is_enough():
    estimate = run(network(), clip(1), pixels())
    assert estimate.tracks[-1].points.shape == (1, 1, 6, 3)
    assert bool(estimate.tracks[-1].points.isfinite().all())


def test_how_many_frames_go_through_the_heads_together_changes_nothing(monkeypatch):
    model, images, queries = network(), clip(3), pixels()
    whole = run(model, images, queries)
    monkeypatch.setitem(network_module.PIXELS_AT_ONCE, "cpu", 1)
    apart = run(model, images, queries)
    for name in ("local_points", "world_points", "confidence", "world_from_camera"):
        assert_close(getattr(whole, name), getattr(apart, name))


def test_how_many_points_are_correlated_together_changes_nothing(monkeypatch):
    tracker, inputs = small_tracker(), tracker_inputs(3)
    seen = []
    tracker.corr_module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        tracker(*inputs, 1)
        monkeypatch.setitem(correlation_module.NUMBERS_AT_ONCE, "cpu", 1)
        tracker(*inputs, 1)
    assert_close(*seen)


def test_the_order_of_points_and_of_later_frames_does_not_matter():
    tracker, (features, maps, queries, points) = small_tracker(), tracker_inputs(4)
    points_order, frames_order = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([0, 3, 1, 2])
    with torch.inference_mode():
        plain = tracker(features, maps, queries, points, 1)[0]
        moved = tracker(features[:, frames_order], maps[:, frames_order], queries[:, points_order], points[:, points_order], 1)[0]
    assert_close(plain.points[:, frames_order][:, :, points_order], moved.points)
    assert_close(plain.visibility[:, frames_order][:, :, points_order], moved.visibility)


def test_tracks_are_measured_in_each_frames_own_points():
    """Every frame in its own unit: exact for powers of two, since nothing that the tracker sees changes."""
    tracker, (features, maps, queries, points) = small_tracker(), tracker_inputs(3)
    units = torch.tensor([2.0, 0.25, 8.0]).view(1, 3, 1, 1)
    with torch.inference_mode():
        plain = tracker(features, maps, queries, points)
        scaled = tracker(features, maps * units[..., None], queries, points * units[0, 0, 0])
    for one, other in zip(plain, scaled, strict=True):
        assert torch.equal(one.points * units, other.points)
        assert torch.equal(one.visibility, other.visibility)


def test_before_any_correction_points_lie_at_the_query_and_in_the_middle_of_other_frames():
    tracker, (features, maps, queries, points) = small_tracker(), tracker_inputs(3)
    torch.nn.init.zeros_(tracker.updateformer.flow_head.weight)
    with torch.inference_mode():
        estimate = tracker(features, maps, queries, points)[-1]
    assert_close(estimate.points[:, 0], points)
    cells = torch.nn.functional.interpolate(maps[0], features.shape[-2:], mode="nearest-exact")
    assert_close(estimate.points[0, 1:], cells[1:].mean(dim=(2, 3))[:, None].expand(-1, 5, -1))


def test_fewer_iterations_are_the_first_ones_of_more():
    model, images, queries = livelier(network()), clip(2), pixels()
    two, four = run(model, images, queries, 2), run(model, images, queries, 4)
    assert len(two.tracks) == 2
    assert torch.equal(two.tracks[1].points, four.tracks[1].points)
    assert not torch.equal(four.tracks[1].points, four.tracks[3].points)


def test_queries_on_whole_pixels_are_read_alike_by_both_samplings():
    bilinear, nearest = network(), network(dataclasses.replace(SIZES, query_sampling="nearest"))
    images = clip(2)
    whole = pixels().round()
    assert_close(run(bilinear, images, whole).tracks[0].points, run(nearest, images, whole).tracks[0].points, rtol=0, atol=CHAOS)
    points = run(bilinear, images).local_points[:, 0]
    between = torch.tensor([[[10.5, 20.0]]])
    expected = points[:, 20, 10:12].mean(dim=1)
    assert_close(bilinear._points_at(points, between)[:, 0], expected)
    assert_close(nearest._points_at(points, torch.tensor([[[10.4, 20.0]]]))[:, 0], points[:, 20, 10])


def test_without_queries_a_grid_is_followed():
    grid = query_grid(clip(2, 2))
    assert grid.shape == (2, 3 * 4, 2)
    assert grid[0, :2].tolist() == [[8, 8], [24, 8]]
    assert run(network(), clip(2)).tracks[-1].points.shape == (1, 2, 12, 3)


def by_numbers(tokens, num_registers):
    """The released layout, number by number: place p of a patch's row c of the frame's memory cut into `dim` rows."""
    num_tokens, dim = tokens.shape
    memory = tokens.flatten().tolist()
    kept = [memory[row * num_tokens + col] for row in range(dim) for col in range(num_registers, num_tokens)]
    return torch.tensor(kept).view(num_tokens - num_registers, dim)


def test_the_released_layout_cuts_the_memory_of_a_frame_anew():
    tokens = torch.arange(2 * 9 * 4.0).view(2, 9, 4)
    for index in range(2):
        assert torch.equal(patches_as_released(tokens, 3)[index], by_numbers(tokens[index], 3))


@pytest.mark.parametrize(("config", "depends"), [(SIZES, False), (RELEASED_SIZES, True)])
def test_only_the_released_layout_mixes_registers_into_the_features(config, depends):
    torch.manual_seed(0)
    features, rows, cols = TrackFeatures(config).eval(), 4, 5
    registers = config.backbone.decoder_registers
    pairs = [torch.randn(2, registers + rows * cols, config.backbone.feature_dim) for _ in range(4)]
    changed = [torch.cat([tokens[:, :registers] + 1, tokens[:, registers:]], dim=1) for tokens in pairs]
    with torch.inference_mode():
        assert bool((features(pairs, rows, cols) != features(changed, rows, cols)).any()) is depends


def test_in_the_corrected_layout_a_mirrored_frame_has_mirrored_features():
    """With kernels that are their own mirror images; the released layout has no such order of cells."""
    rows, cols = 4, 5
    for config, mirrors in ((SIZES, True), (RELEASED_SIZES, False)):
        torch.manual_seed(0)
        features = TrackFeatures(config).eval()
        with torch.inference_mode():
            for value in features.parameters():
                if value.ndim == 4:
                    value.copy_((value + value.flip(-1)) / 2)
            # A stride of two has no mirror image on an even number of columns; five columns become three.
            registers = config.backbone.decoder_registers
            pairs = [torch.randn(1, registers + rows * cols, config.backbone.feature_dim) for _ in range(4)]
            patches = [tokens[:, registers:].unflatten(1, (rows, cols)).flip(2).flatten(1, 2) for tokens in pairs]
            turned = [torch.cat([tokens[:, :registers], patch], dim=1) for tokens, patch in zip(pairs, patches, strict=True)]
            found, expected = features(turned, rows, cols), features(pairs, rows, cols).flip(-1)
            assert torch.allclose(found, expected, atol=1e-4) is mirrors


def test_all_results_are_float32_under_autocast_and_near_those_without():
    model, images, queries = network(), clip(2), pixels()
    plain = run(model, images, queries)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(model, images, queries)
    for name in ("local_points", "world_points", "confidence", "world_from_camera"):
        assert getattr(half, name).dtype == torch.float32, name
        assert_close(getattr(half, name), getattr(plain, name), rtol=5e-2, atol=5e-2)
    assert half.tracks[-1].points.dtype == half.tracks[-1].visibility.dtype == torch.float32


def whole_loss(estimate):
    tracks = sum(track.points.square().mean() + track.visibility.square().mean() + track.visibility.mean() for track in estimate.tracks)
    return estimate.world_points.square().mean() + estimate.confidence.square().mean() + tracks


def gradients(config, checkpointing):
    model = livelier(network(config)).train()
    model.gradient_checkpointing = checkpointing
    whole_loss(model(clip(2), pixels(), 1)).backward()
    return {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("config", [SIZES, RELEASED_SIZES], ids=["corrected", "released"])
def test_gradients_reach_every_parameter(config):
    without = [name for name, gradient in gradients(config, False).items() if gradient is None or not bool(gradient.abs().sum() > 0)]
    assert without == []


def test_checkpointing_gives_the_same_gradients():
    plain, recomputed = gradients(SIZES, False), gradients(SIZES, True)
    for name, gradient in plain.items():
        assert_close(recomputed[name], gradient, rtol=1e-3, atol=1e-5 * max(1.0, float(gradient.abs().max())))


@pytest.mark.parametrize("moves", [False, True])
def test_tracks_move_the_point_maps_only_where_asked(moves):
    model = livelier(network(dataclasses.replace(SIZES, tracks_move_points=moves))).train()
    model(clip(2), pixels(), 1).tracks[-1].points.square().mean().backward()
    assert (model.point_head.output_block[0][0].weight.grad is not None) is moves
    assert model.track_decoder.projects[0].weight.grad is not None


def test_iterations_are_trained_one_by_one():
    """The loss of a later iteration does not reach the corrections of the one before through its coordinates."""
    tracker, (features, maps, queries, points) = small_tracker(), tracker_inputs(2)
    first, second = tracker(features, maps, queries, points, 2)
    gradient = torch.autograd.grad(second.points.sum(), first.points, allow_unused=True)[0]
    assert gradient is None


def test_a_clip_is_learnt_by_heart_in_twenty_steps():
    """The scene of Pi3's test in two frames, and tracks that leave the query: points, poses, visibility and confidence together."""
    side, num_steps = 28, 20
    model, images, queries = network().train(), clip(2)[..., :side, :side], pixels(4).clamp(max=side - 1)
    x, y = torch.meshgrid(torch.linspace(-0.5, 0.5, side), torch.linspace(-0.5, 0.5, side), indexing="xy")
    depth = 2.0 + 0.5 * x
    local = torch.stack([x * depth, y * depth, depth], dim=-1).expand(1, 2, side, side, 3)
    start = local[:, 0, queries[0, :, 1].long(), queries[0, :, 0].long()]
    tracks = torch.stack([start, start + torch.tensor([0.5, -0.5, 1.0])], dim=1)
    seen = torch.tensor([1.0, 0.0]).view(1, 2, 1)
    # Encodings multiply coordinates by 2^13, so gradients jump from step to step: a short memory does better than the usual one.
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3, betas=(0.5, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    losses = []
    for _ in range(num_steps + 1):
        estimate = model(images, queries, 1)
        terms = [(estimate.tracks[-1].points - tracks).square().mean()]
        terms += [(estimate.local_points - local).square().mean(), (estimate.tracks[-1].visibility.sigmoid() - seen).square().mean()]
        terms += [(estimate.world_from_camera - torch.eye(4)).square().mean(), (estimate.confidence.sigmoid() - 1).square().mean()]
        loss = torch.stack(terms).sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    assert losses[num_steps] < losses[0] / 10


@pytest.mark.parametrize(
    ("images", "queries", "message"),
    [
        (torch.zeros(1, 2, 3, 56, 60), None, "multiples of the patch"),
        (torch.zeros(2, 3, 56, 56), None, "must be"),
        (torch.zeros(1, 2, 3, 14, 14), None, "cells on the coarsest"),
        (torch.full((1, 2, 3, 56, 56), 255.0), None, r"\[0, 1\]"),
        (clip(2), torch.zeros(6, 2), "queries_px of shape"),
        (clip(2), torch.zeros(1, 0, 2), "one point or more"),
        (clip(2), torch.zeros(2, 4, 2), r"must be \(1, points, 2\)"),
        (clip(2), torch.full((1, 4, 2), torch.nan), "x from nan to nan"),
        (clip(2), torch.tensor([[[3.0, 4.0], [60.0, 58.0]]]), "y from 4 to 58; must be pixels .* 70x56 px"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(images, queries, message):
    with pytest.raises(InputError, match=message):
        network()(images, queries)


def test_a_number_of_iterations_below_one_is_named():
    with pytest.raises(InputError, match="num_iterations = 0"):
        network()(clip(1), pixels(), 0)


def test_a_clip_that_does_not_fit_into_memory_is_named_before_it_is_tried(monkeypatch):
    """The feature maps count as well: what Pi3 could do just so is too much for TrajVG."""
    needed = memory_module.least_bytes(SIZES.backbone, 2, HEIGHT, WIDTH)
    monkeypatch.setattr(memory_module, "free_memory_bytes", lambda _device: needed)
    with pytest.raises(InputError, match=r"TrajVG: 2 frames of 70x56 px need at least .* GB are free; give fewer"):
        run(network(), clip(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_pairs": (0, 1)}, "4 values"),
        ({"feature_pairs": (0, 0, 1, 9)}, r"must lie in \[0, 1\]"),
        ({"upsample_dims": ()}, "one value or more"),
        ({"head_dim": 20}, "multiple of 16"),
        ({"token_layout": "scrambled"}, "corrected, released"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SIZES, **changes)
    with pytest.raises(ConfigError, match="multiple of 7"):
        TrackerConfig(hidden_dim=32, num_heads=7)


def test_weights_in_half_precision_are_read_and_become_single(tmp_path):
    model = network()
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, tmp_path / "half.safetensors")
    loaded = create_network("trajvg", SIZES, tmp_path / "half.safetensors")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert_close(loaded.register_token.detach(), model.register_token.detach(), rtol=1e-3, atol=1e-6)
    assert bool(run(loaded, clip(1)).world_points.isfinite().all())


def test_weights_of_another_network_or_size_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(Pi3(pi3_tiny()).state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.safetensors: are not those of trajvg.*a file of pi3"):
        create_network("trajvg", SIZES, path)
    save_file(network().state_dict(), path)
    with pytest.raises(WeightsError, match=r"are not those of trajvg.*other shape"):
        create_network("trajvg", weights=path)


def test_own_training_starts_from_the_corrected_layout():
    assert trajvg_large() == TrajVGConfig()
    assert (TrajVGConfig().token_layout, TrajVGConfig().query_sampling) == ("corrected", "bilinear")
