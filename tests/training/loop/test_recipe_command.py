"""`perception-train RECIPE [--field value ...]`."""

import json
from dataclasses import dataclass, replace
from importlib import import_module

import pytest
from tests.support.toy_task import ToyRecipe, toy

from perception.core.errors import ConfigError
from perception_training.cli.main import main
from perception_training.cli.recipe import configure
from perception_training.recipes import RECIPES, make_recipe


@pytest.fixture(autouse=True)
def toy_recipe(monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", "tests.support.toy_task:toy")


def configured(*words):
    return configure(toy(), words, "perception-train toy", "toy")


def test_a_recipe_is_trained_with_the_fields_that_are_given(tmp_path, capsys):
    assert main(["toy", "--train.steps", "3", "--toy.hidden=5", "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "step 3/3  loss" in output
    assert "0:00 left" in output
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]


def test_fields_may_be_named_by_their_end():
    assert configured("--steps", "7").train.steps == 7
    assert configured("--learning-rate", "0.5").train.optimiser.learning_rate == 0.5
    assert configured("--optimiser.learning_rate=0.5").train.optimiser.learning_rate == 0.5
    assert configured("--no-ema-warm-up").train.ema_warm_up is False
    assert configured("--evaluate-at", "0", "5").train.evaluate_at == (0, 5)
    assert configured() == toy()


@dataclass(frozen=True)
class _Twins:
    left: ToyRecipe
    right: ToyRecipe


def test_an_end_of_several_fields_is_an_error_that_names_them():
    with pytest.raises(ConfigError, match=r"--hidden: is the end of several fields: left\.toy\.hidden, right\.toy\.hidden"):
        configure(_Twins(toy(), toy()), ["--hidden", "3"], "prog", "twins")


def test_an_unknown_field_lists_those_there_are_and_the_nearest(capsys):
    assert main(["toy", "--setps", "3"]) == 2
    error = capsys.readouterr().err
    assert "has no field 'setps' (did you mean --steps?); known: train.out, " in error
    assert "toy.hidden" in error


def test_a_value_out_of_range_is_an_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["toy", "--steps", "-3"])
    assert exit_.value.code == 2
    assert "TrainConfig.steps = -3: must lie in [0, inf]" in capsys.readouterr().err


def test_an_unknown_recipe_lists_those_there_are_and_the_nearest(capsys):
    assert main(["toi"]) == 2
    error = capsys.readouterr().err
    assert "unknown command or recipe 'toi'" in error
    assert "did you mean 'toy'?" in error
    with pytest.raises(ConfigError, match=r"recipe = 'toi': unknown; known: .*toy"):
        make_recipe("toi")


def test_recipes_and_commands_are_listed(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "\n  toy\n" in output
    assert "  render " in output


def test_help_of_a_recipe_explains_its_fields(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["toy", "--help"])
    assert exit_.value.code == 0
    assert "Width of the hidden layer." in capsys.readouterr().out


def test_a_data_set_that_is_missing_is_its_readers_error_and_leaves_no_folder(tmp_path, capsys):
    assert main(["toy", "--missing", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: data set toy: /nowhere: no such folder\n"
    assert not (tmp_path / "run").exists()


def test_every_recipe_exists_and_has_a_debug_twin():
    names = set(RECIPES) - {"toy"}
    for name in names:
        module, function = RECIPES[name].split(":")
        assert callable(getattr(import_module(module), function)), name
    assert not {name for name in names if not name.endswith("_debug") and f"{name}_debug" not in names}


def test_the_folder_is_named_after_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.support.toy_task.toy", lambda: replace(toy(), train=replace(toy().train, steps=1)))
    assert main(["toy"]) == 0
    assert (tmp_path / "runs" / "toy" / "config.yaml").is_file()
