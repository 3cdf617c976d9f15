"""Checkpoints are whole or not there."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from perception.core.errors import InputError, WeightsError
from perception_training.loop import checkpoints
from perception_training.loop.checkpoints import frozen_names, latest_checkpoint, load_module, module_tensors, save_checkpoint

FILES = {"weights": {"a": torch.arange(5.0)}, "optimiser": {"exp_avg/a": torch.ones(5)}}


def test_what_is_saved_is_read_back(tmp_path):
    save_checkpoint(tmp_path, 7, FILES, {"world_size": 2}, keep=2)
    found = latest_checkpoint(tmp_path)
    assert (found.step, found.state["world_size"]) == (7, 2)
    assert torch.equal(found.tensors("weights")["a"], FILES["weights"]["a"])
    assert not found.has("running_mean")


def test_the_newest_are_kept(tmp_path):
    for step in (5, 90, 100):
        save_checkpoint(tmp_path, step, FILES, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000090", "step_00000100"]


def test_tied_and_transposed_weights_are_saved(tmp_path):
    weight = torch.rand(3, 2)
    save_checkpoint(tmp_path, 1, {"weights": {"a": weight, "b": weight, "c": weight.T}}, {}, keep=1)
    found = latest_checkpoint(tmp_path).tensors("weights")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], weight.T)


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_disk_that_is_full_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, failing_call):
    save_checkpoint(tmp_path, 5, FILES, {}, keep=1)
    write, calls = checkpoints.write_tensors, []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == failing_call:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(path, tensors)

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(InputError, match=r"step_00000010: cannot be written .*No space left.*; the last good one is .*step_00000005"):
        save_checkpoint(tmp_path, 10, FILES, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]
    assert torch.equal(latest_checkpoint(tmp_path).tensors("weights")["a"], FILES["weights"]["a"])


def test_a_write_that_the_system_refuses_is_said_in_one_sentence(tmp_path):
    """The limit on file sizes stands for a full disk: the failure comes from the system, below safetensors."""
    script = f"""
import resource, signal, torch
from pathlib import Path
from perception_training.loop.checkpoints import save_checkpoint
save_checkpoint(Path({str(tmp_path)!r}), 1, {{"weights": {{"a": torch.zeros(10)}}}}, {{}}, 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_checkpoint(Path({str(tmp_path)!r}), 2, {{"weights": {{"a": torch.zeros(100_000)}}}}, {{}}, 1)
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert "step_00000002: cannot be written" in run.stdout, run.stderr
    assert "the last good one is" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 5, FILES, {}, keep=3)
    partial = tmp_path / "step_00000010.partial"
    partial.mkdir()
    (partial / "weights.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path).step == 5
    save_checkpoint(tmp_path, 10, FILES, {}, keep=3)
    assert latest_checkpoint(tmp_path).step == 10
    assert not partial.exists()


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = save_checkpoint(tmp_path, 5, FILES, {}, keep=1)
    (folder / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsError, match=r"weights\.safetensors: damaged"):
        latest_checkpoint(tmp_path).tensors("weights")
    (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json: not the state of a checkpoint .*the one before"):
        latest_checkpoint(tmp_path)


def test_frozen_parameters_are_left_out_but_a_teacher_may_be_kept():
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "teacher": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
    module["backbone"].requires_grad_(False)
    module["teacher"].requires_grad_(False)
    without = frozen_names(module, ("teacher.",))
    tensors = module_tensors(module, without)
    assert without == {"backbone.weight", "backbone.bias"}
    assert {"teacher.weight", "norm.weight", "norm.running_mean"} <= set(tensors)
    load_module(module, tensors, "here", without)
    with pytest.raises(WeightsError, match=r"frozen here, the first: backbone\.weight"):
        load_module(module, {**tensors, "backbone.weight": torch.zeros(2, 2)}, "here", without)
