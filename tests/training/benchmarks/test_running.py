import json

import pytest

from perception.core.errors import InputError
from perception.evaluation.provenance import Header
from perception_training.benchmarks import running
from perception_training.benchmarks.records import FILE, RecordFile, floats, read_records
from perception_training.benchmarks.running import Benchmark, evenly_chosen, predict_all, score_folder

UNITS = ("a", "b", "c")


class Counting(Benchmark):
    """Predicts a number for each unit; `bad` units have no data."""

    name = "tapvid_davis"

    def __init__(self, setting: int = 1, bad: tuple[str, ...] = (), interrupted_at: str = "") -> None:
        self.setting, self.bad, self.interrupted_at = setting, bad, interrupted_at
        self.predicted: list[str] = []

    @property
    def header(self):
        return Header.here({"benchmark": self.name, "label": "mine", "settings": {"setting": self.setting}}, "a source")

    @property
    def units(self):
        return UNITS

    def predict(self, unit):
        if unit == self.interrupted_at:
            raise KeyboardInterrupt
        if unit in self.bad:
            raise InputError(f"/data/{unit}.png: truncated")
        self.predicted.append(unit)
        return {"value": float("nan") if unit == "c" else UNITS.index(unit), "list": (1, 2)}


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_all(Counting(interrupted_at="b"), tmp_path)
    with (tmp_path / FILE).open("a") as stream:
        stream.write('{"unit": "b", "val')  # killed while writing
    again, seen = Counting(), []
    predict_all(again, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert again.predicted == ["b", "c"]
    assert seen == [(2, 3), (3, 3)]
    _, units, records = read_records(tmp_path / FILE)
    assert (units, list(records)) == (UNITS, list(UNITS))
    assert records["a"] == {"value": 0, "list": [1, 2]}
    assert records["c"]["value"] is None


def test_predictions_of_another_setup_are_refused_and_restart_throws_them_away(tmp_path):
    predict_all(Counting(setting=1), tmp_path)
    with pytest.raises(InputError, match=r"stale predictions.*config settings\.setting is 1, expected 2.*--restart"):
        predict_all(Counting(setting=2), tmp_path)
    with pytest.raises(InputError, match="stale"):
        score_folder(tmp_path, Counting(setting=2).header)
    other = Counting(setting=2)
    predict_all(other, tmp_path, restart=True)
    assert other.predicted == list(UNITS)


def test_other_units_are_another_setup(tmp_path):
    header = Counting().header
    RecordFile(tmp_path / FILE, header, ("a", "b"))
    with pytest.raises(InputError, match="2 units of work, expected 3"):
        RecordFile(tmp_path / FILE, header, UNITS)


def test_bad_data_stop_the_run_unless_they_are_to_be_skipped(tmp_path):
    with pytest.raises(InputError, match=r"/data/b\.png: truncated"):
        predict_all(Counting(bad=("b",)), tmp_path)
    records = predict_all(Counting(bad=("b",)), tmp_path, skip_bad=True)
    assert records.records["b"] == {"skipped": "/data/b.png: truncated"}


def test_an_unfinished_run_is_not_scored_unless_asked_for(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        predict_all(Counting(interrupted_at="b"), tmp_path)
    with pytest.raises(InputError, match=r"1 of 3 units are predicted.*--allow-partial"):
        score_folder(tmp_path)


def test_a_run_of_bad_units_alone_says_why(tmp_path):
    predict_all(Counting(bad=UNITS), tmp_path, skip_bad=True)
    with pytest.raises(InputError, match=r"no unit could be predicted; the first says: /data/a\.png: truncated"):
        score_folder(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: ["rubbish", *lines[1:]], "line 1: not valid JSON"),
        (lambda lines: lines[1:], "must be 'perception-benchmark-predictions' 1"),
        (lambda lines: [lines[0].replace('"setting":1', '"setting":7'), *lines[1:]], "does not match its fingerprint"),
        (lambda lines: [*lines, lines[1]], "unit 'a' is there twice"),
        (lambda lines: [*lines[:2], lines[2].replace('"b"', '"z"'), lines[3]], "unit 'z' is not one of the header"),
        (lambda lines: [], "no whole line"),
    ],
)
def test_a_damaged_file_of_predictions_is_reported(tmp_path, damage, message):
    predict_all(Counting(), tmp_path)
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("".join(line + "\n" for line in damage(lines)))
    with pytest.raises(InputError, match=FILE) as caught:
        read_records(tmp_path / FILE)
    assert message in str(caught.value)


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path):
    header = Header.here({"benchmark": "speed", "label": ""}, "")
    RecordFile(tmp_path / FILE, header, ("a",)).add("a", {"value": 1})
    with pytest.raises(Exception, match=r"'speed': unknown; known: bop, clutter_pose, correspondence"):
        score_folder(tmp_path)


def test_every_scorer_is_there():
    from importlib import import_module

    for module in running.SCORERS.values():
        assert callable(import_module(f"perception_training.benchmarks.{module}").score)


def test_names_are_chosen_evenly():
    names = [str(number) for number in range(10)]
    assert evenly_chosen(names, 0) == tuple(names)
    assert evenly_chosen(names, 20) == tuple(names)
    assert evenly_chosen(names, 5) == ("0", "2", "4", "6", "8")


def test_unknown_numbers_come_back_as_nan():
    assert floats(json.loads("[1.5, null]")).tolist()[0] == 1.5
    assert floats([None]).dtype == float
