"""STDiT and its diffusion: gradients, training, generation, options and what can be wrong with the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception.core.errors import ConfigError, InputError
from perception.models.diffusion import Guidance, add_noise, guided, linear_schedule, mix_guidance, previous_step, sample, training_losses
from perception.models.stdit import Stdit, StditConfig, freeze, generate_latents

TINY = StditConfig(num_frames=3, height=4, width=6, hidden_dim=32, depth=2, num_heads=2, caption_dim=8, num_caption_tokens=5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def awake(config: StditConfig = TINY) -> Stdit:
    """A network in which nothing starts at 0, so that everything has an effect and a gradient."""
    network = Stdit(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def inputs(batch: int = 2, config: StditConfig = TINY) -> tuple[Tensor, Tensor, Tensor]:
    latents = torch.randn(batch, config.latent_channels, config.num_frames, config.height, config.width)
    return latents, torch.full((batch,), 500), torch.randn(batch, config.num_caption_tokens, config.caption_dim)


def loss_of(network: Stdit) -> Tensor:
    latents, steps, captions = inputs()
    schedule = linear_schedule()
    noise = torch.randn_like(latents)
    return training_losses(schedule, lambda noisy, times: network(noisy, times, captions), latents, steps, noise).total.mean()


def test_a_new_network_predicts_nothing_and_ignores_the_caption() -> None:
    latents, steps, captions = inputs()
    network = Stdit(TINY).eval()
    assert not network(latents, steps, captions).any()
    tokens, told = network.embed(latents, steps, captions)
    other = network.embed(latents, steps, captions + 1)[1]
    assert torch.equal(network.run_blocks(tokens, told, 0, 2), network.run_blocks(tokens, other, 0, 2))


def test_gradients_reach_every_parameter_and_checkpointing_does_not_change_them() -> None:
    network = awake().train()
    gradients = []
    for checkpointing in (False, True):
        network.gradient_checkpointing = checkpointing
        network.zero_grad()
        torch.manual_seed(3)
        loss_of(network).backward()
        gradients.append({name: value.grad for name, value in network.named_parameters()})
    assert all(value is not None and value.any() for value in gradients[0].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_one_sample_is_learnt_by_heart() -> None:
    config = StditConfig(num_frames=2, height=4, width=4, hidden_dim=64, depth=2, num_heads=2, caption_dim=8, num_caption_tokens=4, caption_dropout=0)
    network, schedule = Stdit(config).train(), linear_schedule()
    latents, steps, captions = inputs(1, config)
    noise = torch.randn_like(latents)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=0)
    history = []
    for _ in range(20):
        optimiser.zero_grad()
        losses = training_losses(schedule, lambda noisy, times: network(noisy, times, captions), latents, steps, noise)
        losses.total.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        history.append(losses.squared_error.item())
    assert history[-1] < 0.1 * history[0]


def test_freezing_leaves_what_it_names() -> None:
    network = awake()
    freeze(network, "not_temporal", first_trained_block=1)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {f"blocks.1.attn_temp.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")}
    freeze(network, "text")
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if ".cross_attn." in name}
    with pytest.raises(ConfigError, match="freeze = 'temporal': unknown; known: not_temporal, text"):
        freeze(network, "temporal")
    with pytest.raises(ConfigError, match=r"first_trained_block = 2: must lie in \[0, 1\]"):
        freeze(network, "text", 2)


def test_masked_caption_tokens_and_dropped_captions_have_no_influence() -> None:
    network = awake()
    latents, steps, captions = inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    changed = captions.clone()
    changed[0, 3:] += 5
    torch.testing.assert_close(network(latents, steps, changed, mask), network(latents, steps, captions, mask))
    assert not torch.allclose(network(latents, steps, changed), network(latents, steps, captions))
    dropped = network(latents, steps, captions, dropped=torch.tensor([True, False]))
    torch.testing.assert_close(dropped[0], network(latents, steps, network.null_prompt(2))[0])
    torch.testing.assert_close(dropped[1], network(latents, steps, captions)[1])


def test_training_drops_captions_at_the_given_rate() -> None:
    always = awake(StditConfig(**{**vars(TINY), "caption_dropout": 1.0})).train()
    latents, steps, captions = inputs()
    torch.testing.assert_close(always(latents, steps, captions), always(latents, steps, captions + 1))
    always.eval()
    assert not torch.allclose(always(latents, steps, captions), always(latents, steps, captions + 1))


@pytest.mark.parametrize("option", [{"temporal_input": "modulated"}, {"temporal_positions": "every_block"}])
def test_what_the_release_does_can_be_done_otherwise_with_the_same_weights(option: dict[str, str]) -> None:
    released = awake()
    other = Stdit(StditConfig(**{**vars(TINY), **option})).eval()
    other.load_state_dict(released.state_dict())
    assert not torch.allclose(other(*inputs()), released(*inputs()))


def test_bfloat16_stays_close() -> None:
    network = awake()
    arguments = inputs()
    exact = network(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(*arguments)
    assert mixed.dtype == torch.float32
    assert (mixed - exact).norm() < 0.02 * exact.norm()
    assert network.bfloat16()(*arguments).dtype == torch.float32


def test_wrong_sizes_are_one_sentence() -> None:
    network = awake()
    latents, steps, captions = inputs()
    for arguments, message in (
        ((latents[..., :-1], steps, captions), r"latents of shape \(2, 4, 3, 4, 5\): must be \(batch, 4, 3, 4, 6\)"),
        ((latents[:, :, 0], steps, captions), r"latents of shape"),
        ((latents, steps[:1], captions), r"timesteps of shape \(1,\): must be \(2,\)"),
        ((latents, steps, captions[:, :3]), r"captions of shape \(2, 3, 8\): must be \(2, 5, 8\)"),
        ((latents, steps, captions, torch.ones(3, 5)), r"caption mask of shape \(3, 5\)"),
        ((latents, steps, captions, torch.zeros(2, 5)), r"caption mask: leaves no token"),
    ):
        with pytest.raises(InputError, match=message):
            network(*arguments)
    for name, value, message in (("height", 5, "height = 5: must be a multiple of 2"), ("hidden_dim", 34, "of 4"), ("space_scale", 0.0, "above 0")):
        with pytest.raises(ConfigError, match=message):
            StditConfig(**{**vars(TINY), name: value})


def test_a_clip_of_one_frame_is_an_image() -> None:
    config = StditConfig(**{**vars(TINY), "num_frames": 1})
    assert awake(config)(*inputs(1, config)).shape == (1, 8, 1, 4, 6)


def test_respacing_keeps_the_noise_of_the_steps_that_stay() -> None:
    schedule = linear_schedule()
    for number in (2, 10, 100, 1000):
        fewer = schedule.respaced(number)
        assert len(fewer) == number
        assert fewer.timesteps[[0, -1]].tolist() == [0, 999]
        torch.testing.assert_close(fewer.alphas_cumprod, schedule.alphas_cumprod[fewer.timesteps], rtol=1e-9, atol=0)
    with pytest.raises(ConfigError, match=r"num_steps = 1001: must lie in \[2, 1000\]"):
        schedule.respaced(1001)
    with pytest.raises(ConfigError, match="num_steps = 10: must be at least 20"):
        linear_schedule(10)


def test_the_true_noise_leads_back_to_the_clean_sample_and_costs_nothing() -> None:
    schedule = linear_schedule()
    clean, noise, index = torch.rand(3, 2, 4, 4) - 0.5, torch.randn(3, 2, 4, 4), torch.tensor([5, 400, 990])
    smallest = torch.full_like(clean, -1)

    def knows(_noisy: Tensor, _steps: Tensor) -> Tensor:
        return torch.cat([noise, smallest], dim=1)

    losses = training_losses(schedule, knows, clean, index, noise)
    assert losses.squared_error.max() == 0
    assert losses.variational.abs().max() < 1e-5
    step = previous_step(schedule, knows(noise, index), add_noise(schedule, clean, index, noise), index)
    torch.testing.assert_close(step.clean[0], clean[0], atol=1e-5, rtol=0)
    bounded = previous_step(schedule, knows(noise, index), 3 * torch.ones_like(clean), index, (-1, 1))
    assert bounded.clean.abs().max() <= 1
    with pytest.raises(InputError, match=r"prediction of shape \(3, 2, 4, 4\): must be \(3, 4, 4, 4\)"):
        training_losses(schedule, lambda noisy, _: noisy, clean, index, noise)


def test_the_variational_loss_does_not_train_the_noise() -> None:
    schedule = linear_schedule()
    prediction = torch.randn(2, 4, 3, 3, requires_grad=True)
    clean = torch.randn(2, 2, 3, 3)
    losses = training_losses(schedule, lambda *_: prediction, clean, torch.tensor([0, 300]), torch.randn_like(clean))
    (gradient,) = torch.autograd.grad(losses.variational.sum(), prediction)
    assert not gradient[:, :2].any()
    assert gradient[:, 2:].any()


def test_sampling_with_a_perfect_network_gives_what_it_knows() -> None:
    schedule, clean = linear_schedule().respaced(20), torch.randn(2, 4, 1, 3, 3)

    def knows(noisy: Tensor, steps: Tensor) -> Tensor:
        kept = linear_schedule().alphas_cumprod[steps].float().view(-1, 1, 1, 1, 1)
        return torch.cat([(noisy - kept.sqrt() * clean) / (1 - kept).sqrt(), torch.full_like(noisy, -1)], dim=1)

    seen = []
    found = sample(schedule, knows, torch.randn_like(clean), on_step=lambda done, total, step: seen.append((done, total, step.clean.shape)))
    torch.testing.assert_close(found, clean, atol=1e-3, rtol=0)
    assert seen == [(index + 1, 20, clean.shape) for index in range(20)]
    with pytest.raises(InputError, match="noise of shape"):
        sample(schedule, knows, torch.zeros(2, 4))


def test_guidance_goes_away_from_the_empty_prompt_in_the_channels_that_it_guides() -> None:
    prediction = torch.randn(4, 8, 2, 3)
    prompted, empty = prediction.chunk(2)
    released, complete = (mix_guidance(prediction, Guidance(scale=4, channels=channels)) for channels in ("first_three", "all"))
    torch.testing.assert_close(released[:2, :3], empty[:, :3] + 4 * (prompted[:, :3] - empty[:, :3]))
    assert torch.equal(released[:, 3:], prediction[:, 3:])
    torch.testing.assert_close(complete[2:, :4], empty[:, :4] + 4 * (prompted[:, :4] - empty[:, :4]))
    assert torch.equal(complete[:, 4:], prediction[:, 4:])
    alone = guided(lambda _noisy, _steps: prediction, Guidance(scale=1.0))
    torch.testing.assert_close(alone(prompted[:, :4], torch.zeros(2)), prompted)
    with pytest.raises(InputError, match="as many empty prompts as prompts"):
        mix_guidance(prediction[:3], Guidance())


def test_generation_is_decided_by_the_seed() -> None:
    network = awake()
    captions, mask = torch.randn(1, 5, 8), torch.tensor([[1, 1, 0, 0, 0]])
    first, again, other = (generate_latents(network, captions, mask, seed=seed, num_steps=3) for seed in (1, 1, 2))
    assert first.shape == (1, 4, 3, 4, 6)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    whole = generate_latents(network, captions, mask, seed=1, num_steps=3, guidance=Guidance(null_mask="all"))
    assert not torch.allclose(first, whole)
