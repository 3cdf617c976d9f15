"""Two gloo processes do what one does on the same samples, replicated (DDP) and sharded (FSDP2)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from perception.models.checkpoint_files import read_tensors

ROOT = Path(__file__).parents[3]
NAMES = ("gradient", "adamw", "accumulated", "fsdp", "fsdp_resumed", "bad")
EXACT = 1e-12


def start(folder, rank=0, world_size=1, port=0):
    folder.mkdir(exist_ok=True)
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    paths = os.pathsep.join(str(ROOT / path) for path in ("src", "training", "."))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **{name: str(value) for name, value in where.items()}}
    command = [sys.executable, "-m", "tests.support.toy_distributed", str(folder), *NAMES]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of one process, folder of two."""
    parent = tmp_path_factory.mktemp("toy")
    one, two = parent / "one", parent / "two"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runs = [start(one), start(two, 0, 2, port), start(two, 1, 2, port)]
    for run in runs:
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 0, output
    return one, two


def ending(folder, name, rank=0):
    return json.loads((folder / f"{name}_{rank}.json").read_text())


def assert_equal_tensors(path, reference):
    found, expected = load_file(path), load_file(reference)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=EXACT, atol=EXACT, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(folders):
    """A step of plain gradient descent with rate 1 leaves the weights at first weights minus gradient."""
    one, two = folders
    assert_equal_tensors(two / "gradient" / "export" / "weights.safetensors", one / "gradient" / "export" / "weights.safetensors")
    norms = {ending(folder, "gradient", rank)["gradient_norm"] for folder, rank in ((one, 0), (two, 0), (two, 1))}
    assert max(norms) - min(norms) < EXACT
    assert ending(two, "gradient", 0)["loss"] != ending(two, "gradient", 1)["loss"]  # each has samples of its own


@pytest.mark.parametrize("name", ["adamw", "accumulated", "fsdp"])
@pytest.mark.parametrize("file", ["weights", "running_mean", "optimiser"])
def test_weights_mean_and_optimiser_state_after_several_steps_are_those_of_one_process(folders, name, file):
    one, two = folders
    place = Path("checkpoints") / "step_00000006" / f"{file}.safetensors"
    assert_equal_tensors(two / name / place, one / "adamw" / place)


def test_logged_losses_are_means_over_the_processes(folders):
    one, two = folders
    lines = [[json.loads(line) for line in (folder / "adamw" / "log.jsonl").read_text().splitlines()] for folder in (one, two)]
    for alone, together in zip(*lines, strict=True):
        assert together["step"] == alone["step"]
        if "loss" in alone:
            assert together["losses"] == pytest.approx(alone["losses"], rel=EXACT)


def test_a_sharded_run_is_resumed_where_it_was(folders):
    one, two = folders
    assert ending(one, "fsdp_resumed")["gradient_norm"] == pytest.approx(ending(two, "fsdp_resumed")["gradient_norm"], rel=EXACT)
    place = Path("fsdp") / "checkpoints" / "step_00000009" / "weights.safetensors"
    assert_equal_tensors(two / place, one / place)


def test_a_sample_with_nan_on_one_rank_stops_all_with_its_name(folders):
    _, two = folders
    errors = [ending(two, "bad", rank)["error"] for rank in range(2)]
    assert errors[0] == errors[1]
    assert "sample 0 (toy/only frames 9) of 4 of rank 1" in errors[0]
    saved = read_tensors(two / "bad" / "not_finite" / "step_00000002_rank_1_batch_0" / "batch.safetensors")
    assert saved["inputs"][0].isnan().all()
