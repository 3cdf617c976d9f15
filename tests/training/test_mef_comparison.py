"""The comparison of MEF's variations: which runs there are, that they begin alike, go on after a stop, and are judged rightly."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch

from perception.core.errors import ConfigError, InputError
from perception_training.data.readers import open_dataset
from perception_training.methods.mef import MefNetwork
from perception_training.recipes import make_recipe, mef_comparison, mef_runs
from perception_training.recipes.mef_comparison import ComparisonConfig, ComparisonRow, compare, variations
from perception_training.recipes.mef_comparison_report import TABLE_CSV, TABLE_JSON, Comparison, write_comparison
from perception_training.recipes.mef_task import PairSource

CONFIG = ComparisonConfig(steps=2, curve_steps=(0, 1), num_objects=(2,))


@pytest.fixture
def recipe():
    """On a thin nano, evaluated on one object."""
    debug = make_recipe("nano_mef_debug")
    network = replace(debug.network, conv_start="identity")
    return replace(
        debug,
        network=network,
        pairs=replace(debug.pairs, num_held_out=1, num_objects=0, one_pair=False),
        held_out=replace(debug.held_out, num_views=2),
    )


def planned(recipe):
    return {(item.group, item.name): item.recipe for item in variations(recipe, CONFIG)}


def test_all_variations_but_the_one_from_random_weights_begin_at_the_features_as_they_were(recipe):
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    runs = planned(recipe)
    with torch.no_grad():
        before = MefNetwork(runs[mef_comparison.ITERATIONS, "all objects"].network).eval()(image)
        for (_, name), run in runs.items():
            after = MefNetwork(run.network).eval()(image)
            assert torch.allclose(after, before, atol=1e-5) == (name != "1 from random weights")


def test_variations_differ_in_what_they_are_named_by(recipe):
    runs = planned(recipe)
    assert len({repr(run) for run in runs.values()}) == len(runs) == 14
    adapter, whole = runs[mef_comparison.ADAPTERS, "2"], runs[mef_comparison.CONVS, "2"]
    trained = [sum(p.numel() for p in MefNetwork(run.network).parameters() if p.requires_grad) for run in (adapter, whole)]
    assert trained[0] == 2 * (9 * 32 + 1) * 32 < trained[1]
    assert runs[mef_comparison.ITERATIONS, "one object"].pairs.num_objects == 1
    assert runs[mef_comparison.ITERATIONS, "all objects"].train.steps == 2


def test_a_finished_run_is_not_trained_again_and_another_one_is_refused(recipe, tmp_path, monkeypatch):
    run = replace(recipe, train=replace(recipe.train, steps=1, evaluate_at=(0,)))
    first = mef_runs.evaluations_of(run, tmp_path, "run")
    assert sorted(first) == [0, 1]
    assert first[0]["ape_percent"] > 0
    monkeypatch.setattr(mef_runs, "train", lambda *_: pytest.fail("trained again"))
    assert mef_runs.evaluations_of(run, tmp_path, "run") == first
    with pytest.raises(InputError, match=r"other settings \(config loss\.temperature"):
        mef_runs.evaluations_of(replace(run, loss=replace(run.loss, temperature=0.2)), tmp_path, "run")


def test_a_run_that_was_stopped_goes_on(recipe, tmp_path):
    half = replace(recipe, train=replace(recipe.train, steps=2, evaluate_at=(0,), checkpoint_every=1))
    whole = mef_runs.evaluations_of(half, tmp_path / "whole", "run")
    mef_runs.evaluations_of(replace(half, train=replace(half.train, steps=1)), tmp_path / "stopped", "run")
    (tmp_path / "stopped" / mef_runs.HEADER_FILE).write_text((tmp_path / "whole" / mef_runs.HEADER_FILE).read_text().replace("whole", "stopped"))
    assert mef_runs.evaluations_of(half, tmp_path / "stopped", "run")[2] == whole[2]


def made_up(recipe, apes: dict[tuple[str, str, int], float]) -> list[ComparisonRow]:
    """Rows as `compare` gives them, with 10 % where nothing is said."""
    rows = []
    for item in variations(recipe, CONFIG):
        for step in sorted({*item.recipe.train.evaluate_at, item.recipe.train.steps}):
            ape = apes.get((item.group, item.name, step), 10.0)
            rows.append(ComparisonRow(item.group, item.name, item.recipe.pairs.num_objects, step, {"ape_percent": ape, "pcdp_5_percent": 1.0}))
    return rows


def test_claims_are_judged_by_the_figures(recipe):
    good = {
        (mef_comparison.ITERATIONS, "all objects", 2): 7.9,
        (mef_comparison.ITERATIONS, "one object", 1): 9.9,
        (mef_comparison.LOSSES, "contrastive", 2): 9.0,
        (mef_comparison.ADAPTERS, "1", 2): 9.5,
    }
    holds = [claim.holds for claim in Comparison(made_up(recipe, good), CONFIG).claims()]
    assert holds == [True, True, True, False, True]  # without convolutions the whole network is better than with
    clear = [claim.is_clear for claim in Comparison(made_up(recipe, good), CONFIG).claims()]
    assert clear == [False, False, True, True, True]  # 7.9 is not told apart from 8.0, nor 9.9 from 10.0
    worse = {**good, (mef_comparison.LOSSES, "contrastive", 2): 7.0, (mef_comparison.ITERATIONS, "one object", 1): 10.1}
    assert [claim.holds for claim in Comparison(made_up(recipe, worse), CONFIG).claims()] == [True, False, False, False, True]


def test_table_and_pictures_are_written(recipe, tmp_path):
    rows = made_up(recipe, {(mef_comparison.ITERATIONS, "all objects", 2): 8.0})
    claims = write_comparison(rows, recipe, CONFIG, tmp_path)
    table = list(csv.DictReader((tmp_path / TABLE_CSV).open()))
    assert len(table) == len(rows)
    assert {row["change_percent"] for row in table} == {"0.0", "-20.0"}
    content = json.loads((tmp_path / TABLE_JSON).read_text())
    assert [item["holds"] for item in content["claims"]] == [claim.holds for claim in claims]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("by_iterations", "by_objects", "variations"))


def test_what_cannot_be_compared_is_named(recipe, tmp_path):
    with pytest.raises(ConfigError, match="0 data sets are evaluated"):
        compare(replace(recipe, pairs=replace(recipe.pairs, num_held_out=0)), CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="must have 0 and 1"):
        ComparisonConfig(curve_steps=(0, 5))


@pytest.mark.slow
def test_the_whole_comparison_runs(recipe, tmp_path):
    rows = compare(recipe, CONFIG, tmp_path)
    assert len(write_comparison(rows, recipe, CONFIG, tmp_path)) == 5


def test_options_reach_the_reader_and_wrong_ones_are_named(recipe):
    def built(*options: str):
        source = PairSource(data_set="primitives", path=".", options=options)
        return replace(recipe, pairs=replace(recipe.pairs, sources=(source,))).build()

    built("num_objects=5", "views.size_px=96")
    with pytest.raises(ConfigError, match=r"pairs\.sources\.0\.options: 'views'"):
        built("views")
    with pytest.raises(ConfigError, match="unknown key"):
        built("size=5")
    assert len(open_dataset("primitives", ".", {"num_objects": 300})) == 300
