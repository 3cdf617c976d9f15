"""Batches of any form."""

from typing import NamedTuple

import torch
from tests.support.toy_task import ToyConfig, ToyTask

from perception_training.loop.batches import mapped, named_tensors, num_samples, one_sample, other_values, sample_names
from perception_training.loop.config import TrainConfig
from perception_training.loop.random_state import random_state, restore_random_state


class Pair(NamedTuple):
    left: torch.Tensor
    right: list[torch.Tensor]


NESTED = {"pair": Pair(torch.zeros(3, 2), [torch.ones(3), torch.ones(3, 4)]), "names": ("a", "b", "c"), "rate": 0.5}


def test_tensors_are_named_by_their_place():
    assert [name for name, _ in named_tensors(NESTED)] == ["pair.left", "pair.right.0", "pair.right.1"]


def test_every_tensor_is_changed_and_the_form_stays():
    found = mapped(NESTED, lambda tensor: tensor + 1)
    assert isinstance(found["pair"], Pair)
    assert found["pair"].right[1].eq(2).all()
    assert found["names"] == ("a", "b", "c")


def test_one_sample_is_cut_out_with_its_name():
    found = one_sample(NESTED, 1)
    assert [tuple(tensor.shape) for _, tensor in named_tensors(found)] == [(1, 2), (1,), (1, 4)]
    assert found["names"] == ("b",)
    assert found["rate"] == 0.5


def test_a_batch_with_other_lengths_cannot_be_cut():
    assert num_samples({"a": torch.zeros(3), "b": torch.zeros(2)}) == 0
    assert num_samples({"a": torch.zeros(3), "b": torch.tensor(1.0)}) == 0
    assert num_samples(NESTED) == 3


def test_what_is_no_tensor_becomes_plain_values():
    assert other_values(NESTED)["names"] == ["a", "b", "c"]
    assert other_values(NESTED)["pair"]["left"] == "tensor [3, 2] torch.float32"


def test_samples_are_named_by_data_set_sequence_and_frame():
    batch = ToyTask(ToyConfig(), TrainConfig()).batch([3, 5])
    assert sample_names(batch) == ["toy/only frames 3", "toy/only frames 5"]
    assert sample_names(one_sample(batch, 1)) == ["toy/only frames 5"]
    assert sample_names(NESTED) == []


def test_random_generators_go_on_from_a_stored_state():
    import random

    import numpy as np

    def draw():
        return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(2).tolist(), torch.randn(1).item()]  # noqa: NPY002

    for _ in range(2):  # with and without half of a pair of normal numbers in reserve
        state = random_state()
        first = draw()
        restore_random_state(state)
        assert draw() == first
