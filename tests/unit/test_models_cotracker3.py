"""CoTracker3 with small random networks: invariants that hold for any weights. The official outputs are compared in tests/parity."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from tests.support.closeness import assert_close
from torch.nn import functional

from perception.core.errors import ConfigError, WeightsError
from perception.models.cotracker3 import CoTracker3, CoTracker3Config, WindowedTracking, feature_windows, load_cotracker3, track_in_windows
from perception.models.cotracker3.correlation import correlate, query_patches

SIZES = CoTracker3Config(
    feature_dim=16,
    correlation_hidden_dim=12,
    correlation_dim=8,
    hidden_dim=24,
    num_heads=2,
    time_depth=2,
    space_depth=1,
    num_virtual_tracks=4,
    window_frames=8,
    height_px=64,
    width_px=96,
)
ONLINE_SIZES = dataclasses.replace(SIZES, pads_windows=True)


def network(config=SIZES):
    torch.manual_seed(3)
    return CoTracker3(config).eval()


def clip(num_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 255 * functional.interpolate(torch.rand(num_frames, 3, 16, 24, generator=generator), size=(64, 96), mode="bilinear")[None]


def queries(frames, seed=1):
    points = torch.rand(1, len(frames), 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([95.0, 63.0])
    return torch.cat([torch.tensor(frames, dtype=torch.float32)[None, :, None], points], dim=-1)


def in_windows(model, video, asked):
    with torch.inference_mode():
        return list(track_in_windows(model, video.unbind(1), asked, 3))


def by_grid_sample(level, points, radius):
    """level (images, height, width, dim), points (images, n, 2) → (images, n, P², dim), first axis of the patch along x: the plain form."""
    height, width = level.shape[1:3]
    offsets = torch.arange(-radius, radius + 1.0, dtype=points.dtype)
    patch = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1).reshape(-1, 2)
    places = (points[:, :, None] + patch) / torch.tensor([width - 1.0, height - 1.0], dtype=points.dtype) * 2 - 1
    sampled = functional.grid_sample(level.permute(0, 3, 1, 2), places, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.permute(0, 2, 3, 1)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
def test_correlations_of_gathered_cells_are_those_of_interpolated_patches(chunk_bytes):
    generator = torch.Generator().manual_seed(0)
    batch, time, num, radius, dim = 2, 3, 5, 2, 6
    levels = [torch.randn(batch, time, size, size + 2, dim, generator=generator, dtype=torch.float64) for size in (16, 8)]
    points = torch.rand(batch, num, time, 2, generator=generator, dtype=torch.float64) * 30 - 6  # some far outside
    frames = torch.randint(0, time, (batch, num), generator=generator)
    start = torch.rand(batch, num, 2, generator=generator, dtype=torch.float64) * 16
    patches = [query_patches(level, frames, start / 2**index, radius) for index, level in enumerate(levels)]
    found = correlate(levels, patches, points, radius, torch.nn.Identity(), chunk_bytes)
    expected = []
    for index, level in enumerate(levels):
        chosen = torch.stack([level[item, frames[item]] for item in range(batch)]).flatten(0, 1)
        query = by_grid_sample(chosen, (start / 2**index).reshape(-1, 1, 2), radius).reshape(batch, num, -1, dim)
        assert_close(patches[index], query)
        here = by_grid_sample(level.flatten(0, 1), (points / 2**index).transpose(1, 2).flatten(0, 1), radius)
        here = here.unflatten(0, (batch, time)).transpose(1, 2)
        expected.append(torch.einsum("bntpc,bnqc->bntpq", here, query).flatten(3))
    assert_close(found, torch.cat(expected, dim=-1))


@pytest.mark.parametrize("num_frames", [1, 5, 8])
def test_a_video_within_one_window_gives_the_same_as_one_pass(num_frames):
    model, video, asked = network(), clip(num_frames), queries([0] * 5 + [num_frames - 1])
    (windowed,) = in_windows(model, video, asked)
    with torch.inference_mode():
        whole = model(video, asked, 3)[-1]
    for mine, theirs in zip(windowed, whole, strict=True):
        assert_close(mine, theirs)


def test_a_short_video_is_filled_up_with_its_last_frame_by_the_online_network():
    model, asked = network(ONLINE_SIZES), queries([0, 1, 2, 3])
    video = clip(5)
    (short,) = in_windows(model, video, asked)
    (filled,) = in_windows(model, torch.cat([video, video[:, -1:].expand(-1, 3, -1, -1, -1)], dim=1), asked)
    assert short.points_px.shape == (1, 5, 4, 2)
    assert_close(short.points_px, filled.points_px[:, :5])


@pytest.mark.parametrize("config", [SIZES, ONLINE_SIZES], ids=["offline", "online"])
def test_tracks_do_not_change_when_the_video_starts_earlier(config):
    """Points asked for in the second half of a window start anew there, whatever came before."""
    model, asked = network(config), queries([4, 5, 6, 7, 7])
    video, before = clip(19), clip(8, seed=5)
    late = in_windows(model, torch.cat([before, video], dim=1), asked + torch.tensor([8.0, 0, 0]))[-1]
    early = in_windows(model, video, asked)[-1]
    assert_close(late.points_px[:, 8:], early.points_px, atol=1e-4)
    assert_close(late.visibility[:, 8:], early.visibility)


def test_the_order_of_the_queries_does_not_matter():
    model, video, asked = network(ONLINE_SIZES), clip(14), queries([0, 0, 3, 9, 12])
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(in_windows(model, video, asked[:, order])[-1].points_px, in_windows(model, video, asked)[-1].points_px[:, :, order], atol=0.02)


def test_a_batch_gives_what_its_items_give_alone():
    model = network()
    videos, asked = torch.cat([clip(12, 1), clip(12, 2)]), torch.cat([queries([0, 5, 9], 1), queries([2, 0, 11], 2)])
    both = in_windows(model, videos, asked)[-1]
    for item in range(2):
        alone = in_windows(model, videos[item : item + 1], asked[item : item + 1])[-1]
        assert_close(both.points_px[item], alone.points_px[0], atol=1e-4)


def test_every_frame_is_encoded_once_and_only_half_a_window_is_read_ahead():
    model, seen, taken = network(), [], []
    model.fnet.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))

    def frames():
        for number, frame in enumerate(clip(23).unbind(1)):
            taken.append(number)
            yield frame

    tracking, counts = WindowedTracking(model, queries([0, 3]), 1), []
    with torch.inference_mode():
        for levels in feature_windows(model, frames()):
            tracking.step(levels)
            counts.append((len(taken), levels[0].shape[1]))
    assert sum(seen) == 23
    assert counts == [(8, 8), (12, 8), (16, 8), (20, 8), (23, 7)]


def test_later_windows_leave_what_lies_before_them_as_it_was():
    states = in_windows(network(), clip(16), queries([0, 0, 2]))
    assert [state.points_px.shape[1] for state in states] == [8, 12, 16]
    assert_close(states[2].points_px[:, :4], states[0].points_px[:, :4])
    assert not torch.equal(states[1].points_px[:, 4:8], states[0].points_px[:, 4:8])


def test_autocast_keeps_coordinates_and_logits_in_float32():
    model, video, asked = network(), clip(8), queries([0, 2, 4])
    with torch.inference_mode():
        exact = model(video, asked, 2)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            levels = model.encode(video)
            rough = model(video, asked, 2)[-1]
    assert {level.dtype for level in levels} == {torch.bfloat16}
    assert {value.dtype for value in rough} == {torch.float32}
    moved = (exact.points_px - asked[:, None, :, 1:]).abs().mean()
    assert (rough.points_px - exact.points_px).abs().mean() < 0.1 * moved


def test_gradients_reach_all_weights():
    model = network()
    estimates = model(clip(4), queries([0, 1, 2]), 2)
    sum(value.square().sum() for estimate in estimates for value in estimate).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert model.corr_mlp.fc1.weight.grad.abs().sum() > 0
    assert model.fnet.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_are_read_key_for_key(tmp_path, suffix):
    model, path = network(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": model.state_dict()}, path)
    else:
        save_file(model.state_dict(), path)
    loaded = load_cotracker3(path, SIZES)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_checkpoint_of_the_other_variant_is_refused_by_name(tmp_path):
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth: made for windows of 8 frames, the network has 16"):
        load_cotracker3(tmp_path / "weights.pth", dataclasses.replace(SIZES, window_frames=16))


def test_a_checkpoint_of_other_sizes_or_of_nothing_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth: belong to another architecture"):
        load_cotracker3(tmp_path / "weights.pth", dataclasses.replace(SIZES, hidden_dim=48))
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "weights.pth").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"damaged\.pth: damaged"):
        load_cotracker3(tmp_path / "damaged.pth", SIZES)


@pytest.mark.parametrize(("field", "value"), [("num_heads", 5), ("space_depth", 2), ("window_frames", 7), ("feature_dim", 12)])
def test_sizes_that_do_not_fit_together_are_refused(field, value):
    with pytest.raises(ConfigError, match="must be a multiple of"):
        dataclasses.replace(dataclasses.replace(SIZES, time_depth=3, space_depth=1), **{field: value})
