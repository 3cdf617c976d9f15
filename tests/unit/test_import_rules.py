"""The direction of imports (.importlinter) and the length of files."""

from __future__ import annotations

import configparser
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "perception"
MAX_LINES = 400


def contracts() -> configparser.ConfigParser:
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    return rules


def test_imports_follow_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    lint_imports = importlib.import_module("importlinter.cli").lint_imports
    exit_code = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert exit_code == 0, capsys.readouterr().out


def test_every_folder_has_its_layer() -> None:
    layers = contracts()["importlinter:contract:layers"]["layers"].replace("|", " ").split()
    folders = {f"perception.{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(layers) == folders
    assert len(layers) == len(set(layers))


def test_ros_is_forbidden_in_every_folder_below_the_nodes() -> None:
    rules = contracts()
    for contract in rules.sections():
        if rules[contract].get("type") == "forbidden":
            sources = rules[contract]["source_modules"].split()
            assert all((PACKAGE / source.removeprefix("perception.").replace(".", "/")).is_dir() for source in sources), contract
    folders = {f"perception.{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(rules["importlinter:contract:ros-only-in-nodes"]["source_modules"].split()) == folders - {"perception.nodes", "perception.cli"}


@pytest.mark.parametrize("folder", ["src", "tests", "launch", "benchmarks"])
def test_files_stay_short(folder: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length >= MAX_LINES} == {}
