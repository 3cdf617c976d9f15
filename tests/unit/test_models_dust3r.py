"""DUSt3R: what holds for any weights, how it trains, and what it says to wrong input."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.support.closeness import assert_close

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.models.dust3r import (
    ClipDecoder,
    CroCo,
    DecoderConfig,
    DUSt3R,
    DUSt3RConfig,
    PairHeads,
    prepare_image,
    prepare_images,
    reconstruct,
    start_from_croco,
    tiny,
    to_public,
)
from perception.models.networks import create_network
from perception.models.parts.rotary import grid_positions, rotary_table

HEADS = ("linear", "dpt")


def images_of(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def network_of(head="linear", seed=0):
    torch.manual_seed(seed)
    return DUSt3R(tiny(head))


def stored(network):
    """What a public file of these weights would hold; a safetensors file holds a shared tensor under one of its names."""
    state = to_public(network.state_dict())
    return {key: value.clone().contiguous() for key, value in state.items() if ".layer_rn." not in key}


@pytest.mark.parametrize("head", HEADS)
def test_point_maps_have_the_size_of_each_image_and_confidences_start_at_one(head):
    network = network_of(head).eval()
    with torch.no_grad():
        result = network(images_of(2, 3, 48, 64), images_of(2, 3, 80, 32))
    assert result.points1.shape == (2, 48, 64, 3)
    assert result.points2.shape == (2, 80, 32, 3)
    assert bool((result.confidence1 >= 1).all())
    assert result.confidence2.shape == (2, 80, 32)


@pytest.mark.parametrize("head", HEADS)
def test_pairs_of_a_collection_are_the_pairs_one_by_one_with_every_image_encoded_once(head):
    network, images = network_of(head).eval(), images_of(3, 3, 32, 48)
    calls = []
    network.encoder.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
    edges = [(0, 1), (1, 0), (2, 1), (0, 2)]
    together = network.predict_pairs(images, edges)
    assert sum(calls) == 3
    with torch.no_grad():
        for number, (i, j) in enumerate(edges):
            for found, expected in zip(together, network(images[i : i + 1], images[j : j + 1]), strict=True):
                assert_close(found[number], expected[0])


def test_the_two_sides_have_weights_of_their_own():
    network = network_of().eval()
    image = images_of(1, 3, 32, 32)
    with torch.no_grad():
        before = network(image, image)
        for parameter in network.downstream_head2.parameters():
            parameter.zero_()
        after = network(image, image)
    assert_close(after.points1, before.points1)
    assert float(after.points2.abs().max()) == 0


@pytest.mark.parametrize("head", HEADS)
def test_every_trained_parameter_has_a_gradient_and_checkpointing_does_not_change_it(head):
    network = network_of(head).train()
    gradients = []
    for enabled in (False, True):
        network.gradient_checkpointing = enabled
        network.zero_grad()
        result = network(images_of(1, 3, 32, 48), images_of(1, 3, 32, 48, seed=1))
        sum(value.square().mean() for value in result).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad})
    for name, plain in gradients[0].items():
        assert plain is not None, name
        assert float(plain.abs().max()) > 0, name
        assert_close(gradients[1][name], plain, rtol=1e-4, atol=1e-6)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert all(name == "mask_token" or "refinenet4.resConfUnit1" in name for name in frozen)


@pytest.mark.parametrize("head", HEADS)
def test_one_pair_is_learnt_by_heart_in_twenty_steps(head):
    """By gradient descent with momentum. All points in one place, the mean, would leave a loss of 1.44."""
    network, num_steps = network_of(head).train(), 20
    first, second = images_of(1, 3, 32, 32), images_of(1, 3, 32, 32, seed=1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    wanted = torch.stack([x, y, 2 + 0.3 * x * y], -1)[None]
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.5, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    losses = []
    for _ in range(num_steps + 1):
        result = network(first, second)
        loss = (result.points1 - wanted).square().sum(-1).mean() + (result.points2 - wanted - 0.1).square().sum(-1).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    assert losses[num_steps] < min(losses[0] / 10, 1.44)


def test_heads_stay_float32_under_autocast_and_results_are_near():
    network, images = network_of("dpt").eval(), images_of(2, 3, 32, 32)
    with torch.no_grad():
        exact = network(images[:1], images[1:])
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images[:1], images[1:])
    assert half.points1.dtype == torch.float32
    assert_close(half.points1, exact.points1, rtol=0.1, atol=0.02)


def test_decoders_run_on_features_of_another_network():
    config = DecoderConfig(feature_dim=72, dec_dim=32, dec_depth=6, dec_heads=4)
    heads = PairHeads(config)
    result = heads.point_maps(torch.randn(3, 12, 72), torch.randn(3, 12, 72), (3, 4), (3, 4))
    assert result.points1.shape == (3, 48, 64, 3)


def test_attention_over_a_clip_reaches_every_frame_and_its_order_is_kept():
    decoder = ClipDecoder(DecoderConfig(feature_dim=24, dec_dim=32, dec_depth=2, dec_heads=4)).eval()
    rotary = rotary_table(grid_positions(2, 3), 8)
    features = torch.randn(1, 4, 6, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = decoder.decode(features, rotary)[-1]
        features[:, 2] += 1
        changes = (decoder.decode(features, rotary)[-1] - before).abs().amax((0, 2, 3))
    assert before.shape == (1, 4, 6, 32)
    assert bool((changes > 1e-4).all())
    assert int(changes.argmax()) == 2


def test_croco_fills_in_hidden_patches_from_the_other_image():
    torch.manual_seed(0)
    network = CroCo(tiny()).eval()
    images, others = images_of(2, 3, 32, 48), images_of(2, 3, 32, 48, seed=1)
    visible = torch.tensor([[True, False, True, False, True, False]] * 2)
    with torch.no_grad():
        patches = network(images, others, visible)
        hidden = images.clone()
        hidden[:, :, :16, 16:32] = 0
        assert_close(network(hidden, others, visible), patches)
        assert float((network(images, images, visible) - patches).abs().max()) > 1e-3
    assert patches.shape == (2, 6, 3 * 16 * 16)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_survive_a_file_with_public_names(tmp_path, head, dtype):
    network = network_of(head).eval()
    save_file({key: value.to(dtype) for key, value in stored(network).items()}, tmp_path / "weights.safetensors")
    loaded = create_network(f"dust3r_512_{head}", tiny(head), tmp_path / "weights.safetensors")
    assert next(loaded.parameters()).dtype == torch.float32
    images = images_of(2, 3, 32, 32)
    with torch.no_grad():
        tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        assert_close(loaded(images[:1], images[1:]).points2, network(images[:1], images[1:]).points2, **tolerance)


def test_a_missing_second_decoder_is_a_copy_of_the_first(tmp_path):
    state = {key: value for key, value in stored(network_of()).items() if not key.startswith("dec_blocks2.")}
    torch.save({"model": state}, tmp_path / "weights.pth")
    loaded = create_network("dust3r_512_linear", tiny(), tmp_path / "weights.pth")
    for name, value in loaded.dec_blocks.state_dict().items():
        assert_close(loaded.dec_blocks2.state_dict()[name], value)


def test_croco_starts_the_encoder_and_both_decoders_and_leaves_the_heads(tmp_path):
    torch.manual_seed(3)
    croco = CroCo(tiny())
    save_file({key: value.contiguous() for key, value in to_public(croco.state_dict()).items()}, tmp_path / "croco.safetensors")
    network = network_of()
    head = network.downstream_head1.proj.weight.clone()
    start_from_croco(network, tmp_path / "croco.safetensors")
    assert torch.equal(network.encoder.enc_blocks[1].mlp.fc1.weight, croco.encoder.enc_blocks[1].mlp.fc1.weight)
    assert torch.equal(network.dec_blocks2[0].mlp.fc1.weight, croco.dec_blocks[0].mlp.fc1.weight)
    assert torch.equal(network.downstream_head1.proj.weight, head)
    loaded = create_network("croco_v2", "tiny", tmp_path / "croco.safetensors")
    assert torch.equal(loaded.prediction_head.weight, croco.prediction_head.weight)
    with pytest.raises(WeightsError, match=r"croco.safetensors: are not those of dust3r_512_linear.*it is a file of croco_v2 \(tiny\)"):
        create_network("dust3r_512_linear", "tiny", tmp_path / "croco.safetensors")
    save_file(stored(network), tmp_path / "dust3r.safetensors")
    with pytest.raises(WeightsError, match=r"dust3r.safetensors: are not those of croco_v2.*it is a file of dust3r"):
        start_from_croco(network, tmp_path / "dust3r.safetensors")


def test_weights_of_another_head_or_size_are_refused_by_name(tmp_path):
    larger = DUSt3RConfig(feature_dim=96, enc_depth=2, enc_heads=4, dec_dim=32, dec_depth=2, dec_heads=4)
    extra = {**stored(network_of()), "more.weight": torch.zeros(1)}
    del extra["dec_norm.bias"]
    for state, config, message in (
        (stored(network_of("dpt")), tiny(), r"4 missing: downstream_head1\.proj\.weight"),
        (stored(network_of()), larger, r"other shape.*it is a file of dust3r_.*tiny"),
        (extra, tiny(), r"1 missing: dec_norm\.bias; 1 extra: more\.weight\); it looks most like dust3r"),
    ):
        save_file(state, tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=r"other\.safetensors: are not those of dust3r_512_linear.*" + message):
            create_network("dust3r_512_linear", config, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((1, 3, 30, 32), (1, 3, 32, 32), "first images: images of 32x30 px.*multiples of the patch, 16 px"),
        ((1, 3, 32, 32), (1, 3, 32, 40), "second images: images of 40x32 px"),
        ((3, 32, 32), (1, 3, 32, 32), r"must be \(batch, 3, height, width\)"),
        ((1, 1, 32, 32), (1, 3, 32, 32), r"must be \(batch, 3, height, width\)"),
        ((2, 3, 32, 32), (1, 3, 32, 32), "2 first and 1 second images"),
    ],
)
def test_images_that_do_not_fit_are_one_clear_sentence(first, second, message):
    with pytest.raises(InputError, match=message):
        network_of()(torch.zeros(first), torch.zeros(second))


@pytest.mark.parametrize("num_images", [2, 4])
def test_images_become_a_scene_even_where_point_maps_are_nonsense(num_images):
    images = images_of(num_images, 3, 32, 48)
    scene = reconstruct(network_of().eval(), images)
    assert [tuple(depth.shape) for depth in scene.depth] == [(32, 48)] * num_images
    assert scene.loss <= scene.start_loss
    assert all(bool(torch.isfinite(points).all()) for points in scene.points())


def test_pairs_must_name_images_and_a_scene_needs_two():
    network = network_of()
    with pytest.raises(InputError, match=r"pairs \[\(0, 5\)\] of 2 images"):
        network.predict_pairs(torch.zeros(2, 3, 32, 32), [(0, 1), (0, 5)])
    with pytest.raises(InputError, match=r"1 image\(s\); must be at least two"):
        reconstruct(network, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("wrong", [{"feature_dim": 50}, {"dec_dim": 36}, {"head": "dpt", "dec_depth": 2}, {"head": "dpt", "dpt_layer_dims": (8, 8)}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="DUSt3RConfig"):
        DUSt3RConfig(**{"feature_dim": 48, "enc_heads": 4, "dec_dim": 32, "dec_heads": 4, **wrong})


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((480, 640), {}, (384, 512)),
        ((1000, 1000), {}, (384, 512)),
        ((1000, 1000), {"keep_square": True}, (512, 512)),
        ((700, 300), {}, (512, 208)),
        ((100, 333), {"size_px": 224, "square": True}, (224, 224)),
    ],
)
def test_images_come_out_at_the_sizes_of_the_official_loader(size, options, expected):
    image = np.zeros((*size, 3), np.uint8)
    assert tuple(prepare_image(image, **options).image.shape[1:]) == expected


def test_a_prepared_image_says_where_points_of_the_original_went():
    image = np.zeros((900, 700, 3), np.uint8)
    image[440:461, 330:351] = 255
    found = prepare_image(image)
    brightness = (found.image[0].double() + 1) / 2
    y, x = (float((brightness.sum(axis) * torch.arange(brightness.shape[1 - axis])).sum() / brightness.sum()) for axis in (1, 0))
    expected = [(value + 0.5) * scale - 0.5 - corner for value, scale, corner in zip((340, 450), found.scale, found.corner_px, strict=True)]
    assert_close(np.array([x, y]), np.array(expected), rtol=0, atol=0.05)
    assert float(found.image.min()) >= -1
    assert float(found.image.max()) <= 1


def test_images_are_resized_by_pillow_and_wrong_ones_refused():
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((512, 256), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
    assert_close(prepare_image(image).image.permute(1, 2, 0), expected, atol=1e-6)
    with pytest.raises(InputError, match="must be \\(height, width, 3\\) uint8"):
        prepare_image(image[..., 0])
    with pytest.raises(InputError, match="come out at sizes"):
        prepare_images([image, image.swapaxes(0, 1)])
    with pytest.raises(InputError, match="too narrow"):
        prepare_image(np.zeros((5, 1000, 3), np.uint8))
    with pytest.raises(InputError, match="multiple of 16"):
        prepare_image(image, 500)
