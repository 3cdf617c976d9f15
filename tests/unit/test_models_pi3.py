"""Pi3 with small random networks: invariants that hold for any weights. The official outputs are compared in tests/parity."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support.closeness import assert_close
from tests.support.plain_pi3 import plain_forward
from torch.utils._python_dispatch import TorchDispatchMode

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.models.networks import create_network
from perception.models.pi3 import BackboneConfig, Pi3, Pi3Config, pi3_base, pi3_large, pi3_small, pi3_tiny, prepare_images, target_size
from perception.models.pi3 import backbone as backbone_module
from perception.models.pi3 import memory as memory_module


def network(config=None, seed=3):
    """Every branch has an effect, the small starts of layer scales and registers too."""
    torch.manual_seed(seed)
    result = Pi3(config or pi3_tiny()).eval()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return result


def clip(num_frames=3, height=42, width=28, num_clips=1, seed=0):
    return torch.rand(num_clips, num_frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_clips", "num_frames", "height", "width"), [(1, 3, 42, 28), (2, 2, 28, 56), (1, 1, 14, 14), (1, 2, 56, 56)])
def test_the_network_equals_its_plain_twin(num_clips, num_frames, height, width):
    pi3, images = network(), clip(num_frames, height, width, num_clips)
    with torch.no_grad():
        for value, expected in zip(pi3(images), plain_forward(pi3, images), strict=True):
            assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_frames_in_another_order_give_the_same_in_that_order():
    pi3, images, order = network(), clip(4), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        estimate, shuffled = pi3(images), pi3(images[:, order])
    for value, moved in zip(estimate, shuffled, strict=True):
        assert_close(value[:, order], moved, rtol=1e-4, atol=1e-4)


def test_frames_see_each_other():
    pi3, images = network(), clip(2)
    with torch.no_grad():
        alone, together = pi3(images[:, :1]), pi3(images)
    assert (alone.local_points[:, 0] - together.local_points[:, 0]).abs().max() > 1e-2


def test_points_in_the_world_are_those_of_the_cameras_moved_by_their_poses():
    with torch.no_grad():
        local, world, _, pose = network()(clip(2))
    rotation = pose[..., :3, :3]
    assert_close(rotation @ rotation.mT, torch.eye(3).expand(1, 2, 3, 3), atol=1e-5)
    assert_close(torch.linalg.det(rotation), torch.ones(1, 2), atol=1e-5)
    assert_close(world[0, 1, 5, 7], rotation[0, 1] @ local[0, 1, 5, 7] + pose[0, 1, :3, 3], atol=1e-5)
    assert (local[..., 2] > 0).all()


def test_bfloat16_deviates_no_more_than_the_plain_twin_in_bfloat16():
    pi3, images = network(), clip(3)
    with torch.no_grad():
        exact = plain_forward(pi3, images)
        with torch.autocast("cpu", torch.bfloat16):
            ours, plain = pi3(images), plain_forward(pi3, images)
    for value, noisy, expected in zip(ours, plain, exact, strict=True):
        assert value.dtype == torch.float32
        assert (value - expected).square().mean() < 4 * (noisy - expected).square().mean()


def test_how_many_frames_are_handled_at_once_changes_nothing(monkeypatch):
    pi3, images = network(), clip(5)
    with torch.no_grad():
        together = pi3(images)
        monkeypatch.setitem(backbone_module.TOKENS_AT_ONCE, "cpu", 1)
        for value, expected in zip(pi3(images), together, strict=True):
            assert_close(value, expected, rtol=1e-4, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation put out."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        values = out if isinstance(out, tuple | list) else [out]
        self.largest = max([self.largest, *(value.numel() for value in values if isinstance(value, torch.Tensor))])
        return out


def test_no_tensor_grows_faster_than_the_number_of_frames():
    pi3, largest = network(), []
    for num_frames in (8, 32):
        with LargestTensor() as mode, torch.no_grad():
            pi3(clip(num_frames, 28, 28))
        largest.append(mode.largest)
    tokens = 32 * (5 + 4)
    assert largest[1] <= 4 * largest[0]
    assert largest[1] < tokens**2


def test_pairs_of_blocks_are_what_the_blocks_put_out():
    pi3, images, seen = network(), clip(2), {}
    for index, block in enumerate(pi3.decoder):
        block.register_forward_hook(lambda _module, _inputs, output, index=index: seen.setdefault(index, output))
    with torch.no_grad():
        features = pi3.features(images, keep_pairs=(0, 1))
        assert set(pi3.features(images, keep_pairs=(0,)).pairs) == {0}
    assert (features.rows, features.cols) == (3, 2)
    for pair, value in features.pairs.items():
        assert_close(value, torch.cat([seen[2 * pair], seen[2 * pair + 1].view_as(seen[2 * pair])], -1))
    assert torch.equal(features.pairs[1], features.tokens)


def squared_sum(estimate):
    return sum(value.square().mean() for value in estimate)


def test_gradients_reach_every_parameter_and_checkpointing_keeps_them():
    pi3, images = network().train(), clip(2)
    gradients = []
    for recomputes in (False, True):
        pi3.gradient_checkpointing = recomputes
        pi3.zero_grad()
        squared_sum(pi3(images)).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in pi3.named_parameters()})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_checkpointing_keeps_less_for_the_backward_pass():
    pi3, images, kept = network().train(), clip(2), []
    for recomputes in (False, True):
        pi3.gradient_checkpointing = recomputes
        count = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, count=count: (count.append(x.numel()), x)[1], lambda x: x):
            pi3(images)
        kept.append(sum(count))
    assert kept[1] < 0.5 * kept[0]


def test_one_sample_is_learnt_by_heart_in_twenty_steps():
    torch.manual_seed(0)
    pi3, images = Pi3(pi3_tiny()).train(), clip(2, 28, 28)
    x, y = torch.meshgrid(torch.linspace(-0.5, 0.5, 28), torch.linspace(-0.5, 0.5, 28), indexing="xy")
    depth = 2.0 + 0.5 * x
    target = torch.stack([x * depth, y * depth, depth], -1)
    shift = torch.tensor([0.3, -0.2, 0.1])
    optimiser = torch.optim.Adam(pi3.parameters(), 3e-3)
    losses = []
    for _ in range(21):
        local, _, _, pose = pi3(images)
        loss = (local - target).square().mean() + (pose[:, 1, :3, 3] - pose[:, 0, :3, 3] - shift).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[20] < losses[0] / 10


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 3, 28, 28), r"shape \(2, 3, 28, 28\), float32; must be \(batch, frames, 3, height, width\)"),
        (torch.rand(1, 2, 4, 28, 28), r"must be \(batch, frames, 3, height, width\)"),
        (torch.zeros(1, 2, 3, 28, 28, dtype=torch.uint8), "uint8; must be .* floating point"),
        (torch.rand(1, 0, 3, 28, 28), "0 frames"),
        (torch.rand(1, 2, 3, 28, 30), "30x28 px; both sides must be positive multiples of the patch, 14 px"),
        (255 * torch.ones(1, 2, 3, 28, 28), "values from 255 to 255; must be RGB in"),
        (torch.full((1, 2, 3, 28, 28), torch.nan), "values from nan"),
    ],
)
def test_images_that_cannot_be_used_are_named(images, message):
    with pytest.raises(InputError, match=f"^Pi3: .*{message}"):
        network()(images)


def test_too_many_frames_for_the_memory_are_named(monkeypatch):
    monkeypatch.setattr(memory_module, "free_memory_bytes", lambda device: 10**8)
    with pytest.raises(InputError, match=r"Pi3: 1000 frames of 224x224 px need at least [\d.]+ GB on cpu, 0.1 GB are free; give fewer \(about \d+\)"):
        network()(torch.zeros(1, 1000, 3, 1, 1).expand(-1, -1, -1, 224, 224))


def test_the_least_memory_is_linear_in_the_frames_and_a_lower_bound():
    few, many = (memory_module.least_bytes(pi3_large().backbone, count, 224, 224) for count in (8, 32))
    assert many == 4 * few
    assert memory_module.least_bytes(pi3_large().backbone, 512, 224, 224) < 10.7e9  # what the official code was seen to take


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_backward_pass_keeps_no_less_than_the_estimate(recomputes):
    pi3, images, kept = network().train(), clip(4, 56, 56), {}
    pi3.gradient_checkpointing = recomputes

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        pi3.features(images)
    weights = {parameter.untyped_storage().data_ptr() for parameter in pi3.parameters()}
    measured = sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in weights)
    blocks = pi3.backbone_config.encoder_depth + pi3.backbone_config.decoder_depth
    outputs = 4 * 56 * 56 * 7 * 4
    estimate = memory_module.least_bytes(pi3.backbone_config, 4, 56, 56, blocks, recomputes) - outputs
    assert estimate <= measured


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"BackboneConfig.dim = 50: must be a multiple of 16"):
        BackboneConfig(dim=50, num_heads=4)
    with pytest.raises(ConfigError, match="decoder_depth = 3: must be a multiple of 2"):
        BackboneConfig(decoder_depth=3)
    with pytest.raises(ConfigError, match="image_px = 500"):
        BackboneConfig(image_px=500)
    with pytest.raises(ConfigError, match="head_dim = 60: must be a multiple of 64"):
        Pi3Config(head_dim=60)


@pytest.mark.parametrize(("config", "millions"), [(pi3_large(), 958.7), (pi3_base(), 0), (pi3_small(), 0)])
def test_named_sizes_can_be_built(config, millions):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Pi3(config).parameters())
    assert not millions or count == pytest.approx(millions * 1e6, abs=5e4)


def test_a_file_of_half_precision_is_read_and_one_of_another_size_refused(tmp_path):
    pi3, path = network(), tmp_path / "pi3.safetensors"
    save_file({name: value.half() for name, value in pi3.state_dict().items()}, path)
    loaded = create_network("pi3", pi3_tiny(), path)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert not loaded.training
    assert torch.equal(loaded.register_token, pi3.register_token.half().float())
    for config in (dataclasses.replace(pi3_tiny(), camera_dim=16), pi3_small()):
        with pytest.raises(WeightsError, match=rf"{path}: are not those of pi3 .*other shape: .*it is a file of pi3 \(tiny\)"):
            create_network("pi3", config, path)


def test_the_first_image_decides_the_size_of_all():
    images = prepare_images([np.zeros((30, 60, 3), np.uint8), np.full((50, 50, 3), 255, np.uint8)], pixel_budget=56 * 28)
    assert images.shape == (2, 3, 28, 56)
    assert images[0].max() == 0
    assert images[1].min() == 1


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1920, 400), (100, 100)])
def test_sizes_keep_to_the_budget_and_nearly_to_the_aspect_ratio(width, height):
    w, h = target_size(width, height)
    assert w % 14 == h % 14 == 0
    assert 0.9 * 255_000 < w * h <= 255_000
    assert w / h == pytest.approx(width / height, rel=0.05)


def test_what_is_no_image_is_named():
    with pytest.raises(InputError, match="no images"):
        prepare_images([])
    with pytest.raises(InputError, match=r"image 1 has shape \(4, 4\), uint8; must be"):
        prepare_images([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)])
    with pytest.raises(InputError, match="0x10 px"):
        target_size(0, 10)
