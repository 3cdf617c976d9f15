"""The report: parsed as HTML, its figures are those of the score, nothing is loaded from elsewhere, data cannot break out of its text."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.core.errors import InputError
from perception.evaluation.pictures import choose_frames, read_pictures, save_pictures
from perception.evaluation.predictions import PosePrediction, PoseTruth, write_predictions, write_truth
from perception.evaluation.provenance import Header
from perception.evaluation.report import render_report, write_report
from perception.evaluation.run_folder import PREDICTIONS_FILE, TRUTH_FILE, RunDescription
from perception.evaluation.score import Score, percent, score_poses, shown
from perception.io.bags import BagWriter

HEADER = Header.here({"pipeline": {"min_score": 0.2, "databases": ["a & b"]}}, "scene.bag")
NASTY = "<script>alert('x')</script>&\"mug'"
VOID_TAGS = {"meta", "img", "source", "br", "link", "input"}


class Page(HTMLParser):
    """Figures by (object or "", name), all attributes that could load something, tags, visible text; fails on unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: dict[tuple[str, str], str] = {}
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._object = self._figure = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID_TAGS:
            self._open.append(tag)
        if tag == "tr":
            self._object = values.get("data-object") or ""
        self._figure = values.get("data-figure") or ""
        self.links += [values[name] or "" for name in ("src", "srcset", "href", "action", "data") if name in values]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._object = "" if tag == "table" else self._object
        self._figure = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._figure:
            self.figures[self._object, self._figure] = data


def pose(x_cm: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = (0.01 * x_cm, 0.0, 1.0)
    return matrix


def made_score(errors_cm: dict[str, list[float | None]], with_truth: bool = True) -> Score:
    predictions, truth = [], []
    for name, errors in errors_cm.items():
        for index, error in enumerate(errors):
            time_ns = index * 100_000_000
            predictions.append(
                PosePrediction(
                    time_ns, name, None if error is None else pose(error), 0.5, 20, 40, 1.0, 0.04, 0.05, "" if error is not None else f"{NASTY} lost"
                )
            )
            if with_truth:
                truth.append(PoseTruth(time_ns, name, pose()))
    return replace(score_poses(predictions, truth), predictions_header=HEADER)


@pytest.mark.parametrize(
    "errors_cm",
    [{"mug": [0.2, 2.0, 4.0, 9.0, None], NASTY: [0.1, None, None, 0.3, 2.0]}, {"mug": [None, None]}, {"mug": [1.5]}],
    ids=["two objects", "all missed", "one frame"],
)
def test_figures_are_those_of_the_score(errors_cm: dict[str, list[float | None]]) -> None:
    score = made_score(errors_cm)
    page = Page(render_report(score, RunDescription()))
    overall = score.overall
    assert page.figures["", "recall_5cm_5deg"] == percent(overall.recall_5cm_5deg)
    assert page.figures["", "median_translation_cm"] == shown(overall.median_translation_cm, 2, " cm")
    assert page.figures["", "median_rotation_deg"] == shown(overall.median_rotation_deg, 2, "°")
    assert page.figures["", "answered_share"] == percent(overall.answered_share)
    assert page.figures["", "latency_p50_ms"] == "50 ms"
    assert page.figures["", "num_processed"] == str(score.stream.num_processed)
    for row in score.objects:
        assert page.figures[row.object_name, "num_frames"] == str(row.num_frames)
        for name in ("answered_share", "recall_1cm_1deg", "recall_3cm_3deg", "recall_5cm_5deg"):
            assert page.figures[row.object_name, name] == percent(getattr(row, name))
        for name in ("median_translation_cm", "median_rotation_deg", "answered_median_translation_cm"):
            assert page.figures[row.object_name, name] == shown(getattr(row, name))


def test_nothing_is_loaded_from_elsewhere_and_data_stays_text() -> None:
    picture = {"kind": "best", "caption": NASTY, "data": "data:image/jpeg;base64,AA=="}
    description = RunDescription(NASTY, NASTY, NASTY)
    html = render_report(made_score({NASTY: [0.1, None]}), description, [picture, {**picture, "kind": "features"}])
    page = Page(html)
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", html)
    assert page.text.count(NASTY) >= 6


def test_plots_are_embedded_png_in_both_themes() -> None:
    page = Page(render_report(made_score({"mug": [0.1, 2.0, None]}), RunDescription()))
    images = [Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))) for link in page.links]
    assert len(images) == 8  # error, cumulative, trajectory, speed; dark and light
    assert {image.format for image in images} == {"PNG"}


@pytest.mark.parametrize("with_predictions", [False, True])
def test_stream_without_truth(with_predictions: bool) -> None:
    score = made_score({"mug": [0.1, None]} if with_predictions else {}, with_truth=False)
    page = Page(render_report(score, RunDescription()))
    assert page.figures["", "stream_answered_share"] == ("50.0 %" if with_predictions else "–")
    assert ("", "recall_5cm_5deg") not in page.figures
    assert ("Confidence over time" in page.text) == with_predictions


def test_report_of_a_folder_states_where_it_comes_from(tmp_path: Path) -> None:
    score = made_score({"mug": [0.1, 2.0]})
    write_predictions(tmp_path / PREDICTIONS_FILE, HEADER, score.predictions)
    write_truth(tmp_path / TRUTH_FILE, HEADER, [error.truth for error in score.errors])
    RunDescription("My run", "two frames", "make demo").write(tmp_path)
    path, _ = write_report(tmp_path)
    page = Page(path.read_text())
    for said in (
        "My run",
        "two frames",
        "make demo",
        HEADER.source,
        HEADER.commit,
        "pipeline.min_score",
        '["a & b"]',
        HEADER.versions["torch"],
        "No overlay pictures",
    ):
        assert said in page.text
    assert {item.name for item in tmp_path.iterdir()} == {
        "predictions.jsonl",
        "truth.jsonl",
        "run.json",
        "score.json",
        "score.csv",
        "errors.csv",
        "report.html",
    }


def test_damaged_descriptions_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json"):
        RunDescription.read(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "pictures.json").write_text('[{"kind": "best"}]')
    with pytest.raises(InputError, match=r"pictures\.json"):
        read_pictures(tmp_path)


def test_camera_position_is_scored_and_named(tmp_path: Path) -> None:
    turned = pose()
    turned[:3, :3] = [[np.cos(0.02), 0, np.sin(0.02)], [0, 1, 0], [-np.sin(0.02), 0, np.cos(0.02)]]
    write_predictions(tmp_path / PREDICTIONS_FILE, HEADER, [PosePrediction(1, "kitchen", turned)])
    write_truth(tmp_path / TRUTH_FILE, HEADER, [PoseTruth(1, "kitchen", pose())])
    RunDescription(position="camera").write(tmp_path)
    path, score = write_report(tmp_path)
    assert score.overall.median_translation_cm == pytest.approx(2.0, abs=0.01)  # turned by 0.02 rad at 1 m
    assert "Camera positions in the scene" in path.read_text()


def test_frames_are_chosen_by_error_and_only_once() -> None:
    score = made_score({"mug": [5.0, 0.1, 3.0, None, 1.0, 9.0, 2.0, None]})
    kinds = {choice.time_ns // 100_000_000: choice.kind for choice in choose_frames(score, {error.truth.time_ns for error in score.errors}, 1)}
    assert kinds == {1: "best", 6: "median", 5: "worst", 3: "missed"}
    few = choose_frames(made_score({"mug": [1.0]}), {0}, 2)
    assert [choice.kind for choice in few] == ["best"]
    assert choose_frames(score, set(), 2) == []
    assert choose_frames(made_score({}), {1}, 2) == []


def test_pictures_come_from_raw_or_compressed_topics_or_not_at_all(tmp_path: Path) -> None:
    score = made_score({"mug": [1.0, 2.0]})
    with BagWriter(tmp_path / "recording") as bag:
        bag.write_image("/object_pose/overlay", 0, np.full((30, 1300, 3), 200, np.uint8))
    pictures = save_pictures(tmp_path, score, tmp_path / "recording")
    assert [(picture.kind, picture.time_ns) for picture in pictures] == [("best", 0)]
    assert Image.open(tmp_path / "pictures" / pictures[0].file).size == (640, 15)
    assert read_pictures(tmp_path) == pictures
