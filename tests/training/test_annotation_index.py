import os

import pytest

from perception.core.errors import InputError
from perception_training.data.layouts.annotation_index import indexed_annotations


class Parser:
    """Counts how often it is asked to parse."""

    def __init__(self):
        self.num_calls = 0

    def __call__(self, path):
        self.num_calls += 1
        return {"a": [path.read_text(), 1], "b": []}


@pytest.fixture
def annotations(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "apple" / "annotations.jgz"
    path.parent.mkdir()
    path.write_text("first")
    return path


def test_a_file_is_parsed_once_for_all_its_sequences(annotations):
    parse = Parser()
    assert indexed_annotations(annotations, "a", parse) == ["first", 1]
    assert indexed_annotations(annotations, "b", parse) == []
    assert indexed_annotations(annotations, "c", parse) is None
    assert parse.num_calls == 1


def test_a_file_that_has_changed_is_parsed_anew(annotations):
    parse = Parser()
    indexed_annotations(annotations, "a", parse)
    annotations.write_text("other")
    os.utime(annotations, ns=(1, 1))
    assert indexed_annotations(annotations, "a", parse) == ["other", 1]
    assert parse.num_calls == 2


def test_a_file_that_cannot_be_parsed_leaves_no_index(annotations, tmp_path):
    def fail(path):
        raise InputError(f"{path}: truncated")

    with pytest.raises(InputError, match=r"annotations\.jgz: truncated"):
        indexed_annotations(annotations, "a", fail)
    assert not list((tmp_path / "cache").rglob("*.sqlite"))
    assert indexed_annotations(annotations, "a", Parser()) == ["first", 1]


def test_a_damaged_index_and_a_missing_file_are_named(annotations, tmp_path):
    indexed_annotations(annotations, "a", Parser())
    (index,) = (tmp_path / "cache").rglob("*.sqlite")
    index.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=index.name):
        indexed_annotations(annotations, "a", Parser())
    annotations.unlink()
    with pytest.raises(InputError, match=r"apple/annotations\.jgz: cannot be read"):
        indexed_annotations(annotations, "a", Parser())
