"""The same engine on a GPU."""

from dataclasses import replace

import pytest
import torch
from tests.support.toy_task import ToyRecipe, ToyTask, toy

from perception_training.loop.guards import TrainingError
from perception_training.loop.training import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def recipe(folder, kind=ToyRecipe, **settings):
    config = toy()
    return kind(train=replace(config.train, device="cuda", out=str(folder), **settings), toy=config.toy)


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(tmp_path):
    whole = train(recipe(tmp_path / "whole", steps=10))
    train(recipe(tmp_path / "parts", steps=5))
    parts = train(recipe(tmp_path / "parts", steps=10, resume=True))
    assert parts.task.module[0].weight.is_cuda
    torch.testing.assert_close(parts.task.module[0].weight, whole.task.module[0].weight, rtol=1e-6, atol=1e-6)


def test_auto_precision_is_bfloat16_where_the_gpu_has_it(tmp_path, capsys):
    train(recipe(tmp_path, steps=1, precision="auto"))
    expected = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    assert f"on cuda:0 in {expected}" in capsys.readouterr().out


class Greedy(ToyTask):
    def losses(self, batch):
        torch.empty(2**50, device=batch.inputs.device)
        return super().losses(batch)


class GreedyRecipe(ToyRecipe):
    def build(self):
        return Greedy(self.toy, self.train)


def test_a_gpu_without_memory_says_what_lowers_it(tmp_path):
    with pytest.raises(TrainingError, match=r"step 1: cuda:0 is out of memory \([0-9.]+ of [0-9.]+ GiB in use\); what lowers it: train\.batch_size"):
        train(recipe(tmp_path, GreedyRecipe, steps=1))
