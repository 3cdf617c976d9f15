"""A run that is killed goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.support.toy_task import toy

from perception.core.errors import ConfigError, InputError, WeightsError
from perception_training.loop.training import train

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from dataclasses import replace
from tests.support.toy_task import toy
from perception_training.loop.training import train
recipe = toy()
train(replace(recipe, toy=replace(recipe.toy, step_s=0.05), train=replace(recipe.train, out=sys.argv[1])), "toy")
"""


def recipe(folder, **settings):
    config = toy()
    return replace(config, train=replace(config.train, out=str(folder), **settings))


def losses(folder):
    """Everything that is logged but times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "uninterrupted"
    train(recipe(folder))
    return folder


def started(folder):
    paths = os.pathsep.join(str(ROOT / path) for path in ("src", "training", "."))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def wait_for_step(folder, step):
    log = folder / "log.jsonl"
    for _ in range(1000):
        time.sleep(0.02)
        if log.is_file() and f'{{"step": {step},' in log.read_text():
            return
    raise AssertionError(f"step {step} was not reached")


def test_a_killed_run_goes_on_with_the_same_losses_to_the_last_bit(tmp_path, uninterrupted):
    run = started(tmp_path)
    wait_for_step(tmp_path, 13)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    seen = len(losses(tmp_path))
    assert seen < len(losses(uninterrupted))
    train(recipe(tmp_path, resume=True))
    assert losses(tmp_path) == losses(uninterrupted)
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert starts[0]["step"] == 0
    assert starts[1]["step"] in (10, 15)
    for name in ("weights", "running_mean", "optimiser", "random"):
        place = Path("checkpoints") / "step_00000030" / f"{name}.safetensors"
        found, expected = load_file(tmp_path / place), load_file(uninterrupted / place)
        assert found.keys() == expected.keys()
        assert all(found[key].numpy().tobytes() == expected[key].numpy().tobytes() for key in expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_saves_it(tmp_path, number):
    run = started(tmp_path)
    wait_for_step(tmp_path, 7)
    run.send_signal(number)
    assert run.wait(timeout=20) != 0
    last = losses(tmp_path)[-1]["step"]
    assert (tmp_path / "checkpoints" / f"step_{last:08d}" / "state.json").is_file()


def test_an_unfinished_line_and_lines_after_the_checkpoint_are_done_again(tmp_path, uninterrupted):
    train(recipe(tmp_path, steps=10))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    train(recipe(tmp_path, resume=True))
    assert losses(tmp_path) == losses(uninterrupted)


def test_a_run_is_not_written_over(uninterrupted):
    with pytest.raises(InputError, match=r"holds a run at step 30; must be empty .*--train\.resume"):
        train(recipe(uninterrupted))


def test_a_complete_run_is_only_exported_again(uninterrupted):
    before = losses(uninterrupted)
    assert train(recipe(uninterrupted, resume=True)).last is None
    assert losses(uninterrupted) == before


def test_resuming_with_other_samples_in_a_step_is_an_error(uninterrupted):
    with pytest.raises(ConfigError, match="samples_per_step 4, now seed 0, samples_per_step 6"):
        train(recipe(uninterrupted, resume=True, batch_size=6))


def test_the_batch_may_be_divided_otherwise(tmp_path):
    train(recipe(tmp_path, steps=2))
    assert train(recipe(tmp_path, steps=3, resume=True, batch_size=2, accumulation=2)).last is not None


def test_a_checkpoint_of_another_architecture_names_the_first_keys_that_differ(uninterrupted):
    other = recipe(uninterrupted, resume=True, steps=40)
    with pytest.raises(WeightsError, match=r"another architecture than Sequential .*0\.bias \(8,\) instead of \(5,\)"):
        train(replace(other, toy=replace(other.toy, hidden=5)))
