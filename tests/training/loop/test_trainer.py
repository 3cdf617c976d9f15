"""What a step is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.toy_task import ToyConfig, ToyRecipe, ToyTask, toy

from perception.core.errors import ConfigError, InputError
from perception_training.loop.config import OptimiserConfig, TrainConfig
from perception_training.loop.distribution import Place
from perception_training.loop.guards import TrainingError, out_of_memory
from perception_training.loop.precision import compute_dtype
from perception_training.loop.run_folder import RunFolder
from perception_training.loop.trainer import Trainer
from perception_training.loop.training import train

EXACT = ToyConfig(double=True)
CPU = Place(torch.device("cpu"))
PLAIN = TrainConfig(
    steps=5,
    batch_size=4,
    num_workers=0,
    precision="float32",
    device="cpu",
    log_every=1,
    optimiser=OptimiserConfig(name="sgd", learning_rate=1.0, beta1=0.0, weight_decay=0.0),
)


def trainer(toy_config=EXACT, task_class=ToyTask, **settings):
    torch.manual_seed(0)
    config = replace(PLAIN, **settings)
    return Trainer(task_class(toy_config, config), config, CPU)


def weights(of):
    return torch.cat([parameter.detach().flatten() for parameter in of.task.module.parameters()])


def change(of, folder=None):
    """What one step does to the weights."""
    before = weights(of)
    figures = of.run_step(folder)
    return weights(of) - before, figures


def test_accumulation_equals_the_whole_batch():
    whole, figures = change(trainer(batch_size=12))
    parts, figures_of_parts = change(trainer(batch_size=4, accumulation=3))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    assert figures_of_parts.losses == pytest.approx(figures.losses, rel=1e-12)
    assert figures_of_parts.gradient_norm == pytest.approx(figures.gradient_norm, rel=1e-12)


def test_gradients_are_clipped_to_the_norm_over_all_parameters():
    free, figures = change(trainer())
    clipped, of_clipped = change(trainer(clip_norm=0.5))
    assert free.norm().item() == pytest.approx(figures.gradient_norm)
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert of_clipped.gradient_norm == figures.gradient_norm
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())


def test_the_loss_is_the_weighted_sum_of_its_terms():
    _, figures = change(trainer())
    assert figures.loss == pytest.approx(figures.losses["fit"] + 0.01 * figures.losses["size"])


def test_a_step_in_bfloat16_is_close_to_one_in_float32():
    exact, _ = change(trainer(ToyConfig()))
    rounded, _ = change(trainer(ToyConfig(), precision="bfloat16"))
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()
    assert compute_dtype(replace(PLAIN, precision="bfloat16"), CPU.device) == torch.bfloat16


class ZeroWeight(ToyTask):
    def losses(self, batch):
        return {"fit": (0.0, super().losses(batch)["fit"][1])}


class NoGradient(ToyTask):
    def losses(self, batch):
        return {"fit": (1.0, torch.tensor(1.0))}


@pytest.mark.parametrize(("kind", "message"), [(ZeroWeight, "loss fit: weight 0"), (NoGradient, "must be numbers that depend on what is trained")])
def test_losses_that_train_nothing_are_errors(kind, message):
    with pytest.raises(ConfigError, match=message):
        trainer(task_class=kind).run_step(None)


class FewBatches(ToyTask):
    def data(self, start, rank, world_size):
        return [self.batch(range(4))]


def test_data_that_ends_is_an_error():
    of = trainer(task_class=FewBatches)
    of.run_step(None)
    with pytest.raises(TrainingError, match="step 2: the data has ended"):
        of.run_step(None)


def test_a_nan_stops_before_the_weights_change_and_its_sample_is_saved(tmp_path):
    of = trainer(ToyConfig(bad_sample=9), batch_size=2, accumulation=3)  # samples 0 to 5, then 6 to 11: the second batch of step 2
    of.run_step(RunFolder(tmp_path))
    before = weights(of)
    with pytest.raises(TrainingError, match=r"step 2: .*not finite; comes from sample 1 \(toy/only frames 9\) of 2 .*saved in"):
        of.run_step(RunFolder(tmp_path))
    assert torch.equal(weights(of), before)
    (folder,) = (tmp_path / "not_finite").iterdir()
    saved = load_file(folder / "batch.safetensors")
    assert saved["inputs"].isnan().any(1).tolist() == [False, True]
    content = json.loads((folder / "batch.json").read_text())
    assert content["samples"] == [1]
    assert content["names"][1] == "toy/only frames 9"


class InfiniteSlope(ToyTask):
    """The root has a finite value and an infinite slope at 0."""

    def losses(self, batch):
        outputs = self.module(batch.inputs)
        return {"root": (1.0, (outputs * batch.inputs.isfinite().all(1, keepdim=True) * (batch.inputs[:, :1] > 0)).abs().sqrt().mean())}


def test_a_gradient_that_is_not_finite_is_found_though_the_loss_is(tmp_path):
    with pytest.raises(TrainingError, match=r"comes from sample .* \(root = [0-9.]+, gradient norm = (nan|inf)\)"):
        trainer(task_class=InfiniteSlope).run_step(RunFolder(tmp_path))


class Hungry(ToyTask):
    def losses(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_device_without_memory_says_what_lowers_it():
    with pytest.raises(TrainingError, match=r"step 1: cpu is out of memory; what lowers it: train\.batch_size = 4 .*bfloat16; toy\.hidden"):
        trainer(task_class=Hungry).run_step(None)
    text = str(out_of_memory(replace(PLAIN, batch_size=1), (), CPU.device, 3, torch.bfloat16))
    assert "batch_size" not in text
    assert "the image size" in text


class Greedy(ToyTask):
    def losses(self, batch):
        torch.empty(2**60)  # more than there is: torch's own error for the CPU
        return super().losses(batch)


def test_the_cpus_memory_error_is_known():
    with pytest.raises(TrainingError, match="step 1: cpu is out of memory"):
        trainer(task_class=Greedy).run_step(None)


def test_an_error_that_is_no_memory_error_passes():
    class Broken(ToyTask):
        def losses(self, batch):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trainer(task_class=Broken).run_step(None)


class Watched(ToyTask):
    """Notes what it sees when it is evaluated and exported."""

    def evaluate(self, step):
        self.seen = (step, self.module.training, self.module[0].weight.detach().clone(), torch.is_grad_enabled())
        return {"error": float(step)}

    def export(self, folder, weights):
        self.exported = dict(weights)


class WatchedRecipe(ToyRecipe):
    def build(self):
        return Watched(self.toy, self.train)


def test_evaluation_and_export_see_the_running_mean(tmp_path):
    result = train(WatchedRecipe(train=replace(PLAIN, out=str(tmp_path), ema_decay=0.9, evaluate_at=(0, 2)), toy=ToyConfig()))
    assert result.evaluations == {0: {"error": 0.0}, 2: {"error": 2.0}, 5: {"error": 5.0}}
    step, training, weight, has_gradients = result.task.seen
    assert (step, training, has_gradients) == (5, False, False)
    mean = load_file(tmp_path / "checkpoints" / "step_00000005" / "running_mean.safetensors")
    assert torch.equal(weight, mean["0.weight"])
    assert torch.equal(result.task.exported["0.weight"], mean["0.weight"])
    assert not torch.equal(result.task.module[0].weight, mean["0.weight"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "evaluation" in line] == [0, 2, 5]


class FailsToEvaluate(ToyTask):
    def evaluate(self, step):
        raise InputError("no such pictures")


class FailsToEvaluateRecipe(ToyRecipe):
    def build(self):
        return FailsToEvaluate(self.toy, self.train)


def test_an_evaluation_that_fails_costs_no_training(tmp_path):
    with pytest.raises(InputError, match="no such pictures"):
        train(FailsToEvaluateRecipe(train=replace(PLAIN, out=str(tmp_path)), toy=ToyConfig()))
    assert (tmp_path / "checkpoints" / f"step_{PLAIN.steps:08d}").is_dir()


def test_evaluations_do_not_change_the_training(tmp_path):
    """The toy's evaluation and its dropout draw from the same generator."""
    recipe = toy()
    weights_of = []
    for name, every in (("often", 1), ("never", 0)):
        result = train(replace(recipe, train=replace(recipe.train, steps=6, out=str(tmp_path / name), evaluate_every=every)))
        weights_of.append(result.task.module[0].weight)
    assert torch.equal(*weights_of)


def test_the_seed_fixes_a_run(tmp_path):
    recipe = toy()
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        np.random.seed(seed + 5)  # noqa: NPY002 (what was drawn before has no say)
        torch.manual_seed(len(found))
        result = train(replace(recipe, train=replace(recipe.train, steps=3, seed=seed, out=str(tmp_path / name))))
        found.append(result.task.module[0].weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_run_folder_says_how_to_do_it_again(tmp_path):
    recipe = toy()
    train(replace(recipe, train=replace(recipe.train, steps=1, out=str(tmp_path))), "toy")
    (start,) = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert start["recipe"] == "toy"
    assert len(start["commit"]) >= 12
    assert {"torch", "tensorboard", "numpy"} <= set(start["versions"])
    assert start["machine"]["processor"]
    assert "hidden: 8" in (tmp_path / "config.yaml").read_text()
    assert (tmp_path / "export" / "weights.safetensors").is_file()
    assert list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_has_the_losses(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = toy()
    train(replace(recipe, train=replace(recipe.train, steps=4, out=str(tmp_path))))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("losses/fit")] == pytest.approx([line["losses"]["fit"] for line in logged if "loss" in line])
    assert events.Scalars("evaluation/error")[-1].step == 4


def test_fsdp_needs_several_processes(tmp_path):
    with pytest.raises(ConfigError, match="needs several processes"):
        train(ToyRecipe(train=replace(PLAIN, out=str(tmp_path), distribution="fsdp")))
