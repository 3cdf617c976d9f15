"""Runs whose evaluations are tabled: one that is complete is not done again, one that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from perception.core.config import to_mapping
from perception.core.errors import InputError
from perception.evaluation.predictions import write_atomically
from perception.evaluation.provenance import Header
from perception.models.extractor import ExtractorConfig
from perception_training.benchmarks.image_features import weights_identity
from perception_training.loop.run_folder import RunFolder
from perception_training.loop.training import train
from perception_training.recipes.mef import MefRecipe

HEADER_FILE = "header.json"
"""Settings, weights, commit and machine of a run, by which it is known again."""


def evaluations_of(recipe: MefRecipe, out: Path, name: str) -> dict[int, Mapping[str, float]]:
    """Figures by step of `recipe` trained in the folder `out`, at the steps that it is evaluated at and after the last one.

    Raises InputError where the folder holds a run of other settings or weights.
    """
    recipe = replace(recipe, train=replace(recipe.train, out=str(out), resume=True))
    _check_same(recipe, out)
    wanted = {*recipe.train.evaluate_at, recipe.train.steps}
    log = RunFolder(out).log
    if not wanted <= set(_logged(log)):
        train(recipe, name)
    found = _logged(log)
    return {step: found[step] for step in sorted(wanted)}


def weights_of(recipe: MefRecipe) -> str:
    """Which weights training begins with: name, size and hash of a file; of others the name."""
    network = recipe.network
    config = ExtractorConfig(extractor=network.extractor, weights=network.weights)
    return weights_identity(config).get("weights", network.weights or network.extractor)


def _check_same(recipe: MefRecipe, out: Path) -> None:
    header, path = Header.here(to_mapping(recipe), weights_of(recipe)), out / HEADER_FILE
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"folder {out}: is not empty and holds no {HEADER_FILE}; must be empty or of this command")
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(header.to_mapping(), indent=1) + "\n")
        return
    before = Header(**json.loads(path.read_text()))
    if before.fingerprint != header.fingerprint:
        raise InputError(f"{path}: is a run of other settings ({'; '.join(before.differences(header)[:3])}); they must be equal, or --out another")


def _logged(path: Path) -> dict[int, Mapping[str, float]]:
    """Evaluations in a log by step."""
    found: dict[int, Mapping[str, float]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # a line that a killed run did not finish
            continue
        if "evaluation" in row:
            found[int(row["step"])] = row["evaluation"]
    return found
