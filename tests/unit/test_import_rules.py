"""The direction of imports (.importlinter) and the length of files."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "perception"
TRAINING = ROOT / "training" / "perception_training"
MAX_LINES = 400


def contracts() -> configparser.ConfigParser:
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    return rules


def test_imports_follow_the_rules() -> None:
    # As a process, because import-linter switches off all loggers of the one it runs in.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_folder_has_its_layer() -> None:
    layers = contracts()["importlinter:contract:layers"]["layers"].replace("|", " ").split()
    folders = {f"perception.{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(layers) == folders
    assert len(layers) == len(set(layers))


@pytest.mark.parametrize(("contract", "folder"), [("training-layers", TRAINING), ("data-layers", TRAINING / "data")])
def test_every_part_of_training_has_its_layer(contract: str, folder: Path) -> None:
    layers = contracts()[f"importlinter:contract:{contract}"]["layers"].replace("|", " ").replace("(", "").replace(")", "").split()
    parts = {path.stem for path in folder.iterdir() if (path / "__init__.py").is_file() or path.suffix == ".py"} - {"__init__"}
    assert parts <= set(layers)
    assert len(layers) == len(set(layers))


def test_ros_is_forbidden_in_every_folder_below_the_nodes() -> None:
    rules = contracts()
    for contract in rules.sections():
        if rules[contract].get("type") == "forbidden":
            paths = [source.replace(".", "/") for source in rules[contract]["source_modules"].split()]
            assert all(any((root / path).is_dir() for root in (PACKAGE.parent, TRAINING.parent)) for path in paths), contract
    folders = {f"perception.{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(rules["importlinter:contract:ros-only-in-nodes"]["source_modules"].split()) == folders - {"perception.nodes", "perception.cli"}


@pytest.mark.parametrize("folder", ["src", "training", "tests", "launch", "benchmarks"])
def test_files_stay_short(folder: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length >= MAX_LINES} == {}
