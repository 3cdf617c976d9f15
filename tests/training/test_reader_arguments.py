"""Command lines that name a data set first."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
import tyro

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception_training.cli.data.reader_arguments import read_reader_arguments
from perception_training.data.readers import READERS, reader_class
from perception_training.data.sequences import Dataset


@dataclass(frozen=True, kw_only=True)
class FakeOptions(Checked):
    """Choices of the fake set."""

    subset: Literal["train", "test"] = "train"
    """Which half."""
    shrink: Annotated[float, Range(0.1, 1.0)] = 1.0
    """Scale."""


class FakeDataset(Dataset):
    """Never opened here."""

    name = "fake"
    Options = FakeOptions


@dataclass(frozen=True)
class Command:
    """Where."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder."""
    skip_bad: bool = False
    """Count and go on."""


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(READERS, "fake", "fake:FakeDataset")
    monkeypatch.setitem(sys.modules, "perception_training.data.readers.fake", SimpleNamespace(FakeDataset=FakeDataset))


def test_name_path_and_options_of_both_are_read(fake):
    found = read_reader_arguments(Command, ["fake", "/tmp/copy", "--subset", "test", "--skip-bad"], "prog", "What it does.")
    assert found.kind is FakeDataset
    assert found.options == FakeOptions(subset="test")
    assert found.command == Command(Path("/tmp/copy"), skip_bad=True)


def test_an_unknown_data_set_lists_the_known_ones(fake):
    with pytest.raises(ConfigError, match=r"known:\n(.|\n)*  fake +Never opened here"):
        read_reader_arguments(Command, ["nothing", "/tmp/copy"], "prog", "What it does.")


def test_an_option_of_the_set_out_of_range_is_an_error(fake, capsys):
    with pytest.raises(SystemExit) as ended:
        read_reader_arguments(Command, ["fake", "/tmp/copy", "--shrink", "7"], "prog", "What it does.")
    assert ended.value.code == 2
    assert "shrink = 7.0: must lie in [0.1, 1]" in capsys.readouterr().err


def test_help_lists_the_data_sets_and_their_options(fake, capsys):
    with pytest.raises(SystemExit) as ended:
        read_reader_arguments(Command, ["--help"], "prog", "What it does.")
    assert ended.value.code == 0
    assert "fake" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        read_reader_arguments(Command, ["fake", "--help"], "prog", "What it does.")
    out = capsys.readouterr().out
    assert "--subset" in out
    assert "--skip-bad" in out


@pytest.mark.parametrize("name", sorted(READERS))
def test_no_reader_has_an_option_that_a_command_has(name):
    taken = {"path", "out", "frames", "step", "shard_size", "skip_bad", "num_workers", "max_sequences", "image", "quality", "depth"}
    taken |= {"frames_per_sequence", "preview", "json_file", "num_problems"}
    assert not taken & {item.name for item in dataclasses.fields(reader_class(name).Options)}
