"""The projection computed from pairs: it drops what differs between views, keeps what tells places apart, and is what nano starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception.core.errors import ConfigError, InputError
from perception.models.nano import NanoNetwork
from perception_training.loop.training import train
from perception_training.methods.discriminant_projection import ProjectionConfig, discriminant_projection
from perception_training.recipes.nano import nano_pretrain_debug
from perception_training.recipes.nano_task import NanoTask

NUM_ENTRIES, NUM_SIGNALS = 12, 3


def pairs(num: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    """Places that differ in three directions, views that differ more, in all others; and the directions of the places."""
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(NUM_ENTRIES, NUM_ENTRIES, generator=generator, dtype=torch.float64))[0]
    signal = torch.randn(num, NUM_SIGNALS, generator=generator, dtype=torch.float64) @ turned[:NUM_SIGNALS]
    views = [
        signal + 3 * torch.randn(num, NUM_ENTRIES - NUM_SIGNALS, generator=generator, dtype=torch.float64) @ turned[NUM_SIGNALS:] for _ in range(2)
    ]
    return views[0] + 5, views[1] + 5, turned[:NUM_SIGNALS]


def share_found(first: Tensor, second: Tensor) -> float:
    first, second = (torch.nn.functional.normalize(each, dim=1)[:500] for each in (first, second))
    return float(((first @ second.T).argmax(1) == torch.arange(len(first))).double().mean())


def test_directions_in_which_views_differ_are_dropped() -> None:
    first, second, signal = pairs()
    found = discriminant_projection(first, second, NUM_SIGNALS, 1e-3)
    kept = torch.linalg.qr(found.matrix.T)[0]
    assert torch.linalg.svdvals(signal @ kept).min() > 0.999
    after = [(each - found.mean) @ found.matrix.T for each in (first, second)]
    assert share_found(*after) == 1.0
    assert share_found(first - first.mean(0), second - second.mean(0)) < 0.2
    assert torch.cat(after).square().sum(1).mean() == pytest.approx(1.0)


def test_with_a_large_least_difference_it_is_a_principal_component_analysis() -> None:
    first, second, _ = pairs()
    found = discriminant_projection(first, second, NUM_SIGNALS, 1e6)
    everything = torch.cat([first, second])
    principal = torch.linalg.eigh(torch.cov(everything.T))[1][:, -NUM_SIGNALS:]
    assert torch.linalg.svdvals(found.matrix @ principal / torch.linalg.matrix_norm(found.matrix, 2)).min() > 0.9


def test_too_few_pairs_are_refused() -> None:
    first, second, _ = pairs(NUM_ENTRIES - 1)
    with pytest.raises(InputError, match="11 pairs of descriptors of 12 numbers"):
        discriminant_projection(first, second, 2, 0.01)


def test_a_level_without_a_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"projection\.level_weights: 2 numbers; must be 4"):
        replace(nano_pretrain_debug(), projection=ProjectionConfig(level_weights=(1.0, 0.5))).build()


def test_training_starts_from_the_projection_and_leaves_it_alone(tmp_path: Path) -> None:
    """Also when it goes on: the projection comes out of the checkpoint, as nothing computes it again."""
    recipe = nano_pretrain_debug()
    recipe = replace(recipe, held_out=replace(recipe.held_out, num_clips=0))
    settings = replace(recipe.train, out=str(tmp_path / "run"), steps=2, checkpoint_every=1)
    before = projection(train(replace(recipe, train=settings)).task)
    assert not torch.equal(before, projection(recipe.build()))
    after = train(replace(recipe, train=replace(settings, steps=3, resume=True)))
    assert after.last is not None
    assert torch.equal(before, projection(after.task))
    expected = recipe.build()
    expected.begin()
    torch.testing.assert_close(before, projection(expected))


def projection(task: object) -> Tensor:
    assert isinstance(task, NanoTask)
    assert isinstance(task.module.network, NanoNetwork)
    return torch.cat([parameter.detach().flatten() for parameter in task.module.network.project.parameters()])
