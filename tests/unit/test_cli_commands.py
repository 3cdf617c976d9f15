"""`perception onboard`, `replay` and `report` one after the other, on a small rendered scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from perception.cli import demo_tabletop
from perception.cli.main import main
from perception.io import meshes
from perception.pipelines.object_database import ObjectDatabase
from perception.rendering.tabletop import TabletopScene

FEATURES = ("--features.sift-size-px", "4")


class SilentStep:
    """Takes the place of a step on the terminal."""

    result = ""

    def progress(self, done: int, total: int) -> None:
        """Nothing to show."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mesh, a bag with the truth, and the database that `perception onboard` made of the mesh."""
    folder = tmp_path_factory.mktemp("cli")
    scene = TabletopScene(width=320, height=240, supersampling=1)
    meshes.save(scene.objects["box"].mesh, folder / "box.obj")
    demo_tabletop.write_stream(scene, 3, folder / "bag", SilentStep())  # type: ignore[arg-type]
    views = ("--reference.num-viewpoints", "42", "--reference.render-size-px", "160", "--reference.render-focal-px", "300")
    size = ("--reference.render-distance", "3", "--database.num-words", "32", "--database.max-descriptors", "20000")
    assert main(["onboard", str(folder / "box.obj"), "--name", "box", "--out", str(folder / "box.safetensors"), *views, *size, *FEATURES]) == 0
    return folder


def test_onboard_writes_a_database_and_says_what_is_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = ObjectDatabase.load(folder / "box.safetensors")
    assert database.name == "box"
    assert database.num_views == 42
    assert 1000 < len(database.points) <= 20_000
    assert main(["onboard", str(folder / "bag"), "--name", "two words", "--out", str(folder / "x")]) == 2
    assert "object name 'two words'" in capsys.readouterr().err


def test_onboard_that_cannot_adapt_says_what_can(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["onboard", str(folder / "box.obj"), "--name", "box", "--out", str(folder / "adapted.safetensors"), "--features.device", "cpu"]
    assert main([*command, "--features.extractor", "dense_sift", "--adapt", "5"]) == 2
    assert "has no network that could be adapted; such are alike_t, alike_n, nano" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--features.extractor", "tiny_nano", "--adapt", "-1"]) == 2
    assert "adapt = -1: must be a number of iterations" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "adapted.safetensors").exists()


def test_onboard_with_an_adapter_that_does_not_help_says_so_and_writes_the_database(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "plain.safetensors"
    views = ("--reference.num-viewpoints", "12", "--reference.render-size-px", "160", "--reference.render-focal-px", "300")
    adapt = ("--adapt", "1", "--adaptation.min-gain", "1", "--features.extractor", "tiny_nano", "--database.num-words", "32")
    assert main(["onboard", str(folder / "box.obj"), "--name", "box", "--out", str(path), *views, *adapt]) == 0
    assert "adapter refused, the database is built without" in " ".join(capsys.readouterr().out.split())
    assert ObjectDatabase.load(path).adapter is None


def test_replay_finds_the_object_and_report_writes_the_same_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = str(folder / "box.safetensors")
    command = ["replay", str(folder / "bag"), "--out", str(tmp_path), "--databases", database]
    assert main(command) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    box = json.loads((tmp_path / "score.json").read_text())["objects"]["box"]
    assert box["num_frames"] == 3
    assert box["num_answered"] >= 1  # the ends of the path look at the box from the side, in a small picture
    assert box["answered_median_translation_cm"] < 3.0
    assert box["answered_median_rotation_deg"] < 3.0
    first = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == first


def test_replay_with_another_extractor_than_the_database_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "replay",
                str(folder / "bag"),
                "--out",
                str(tmp_path),
                "--databases",
                str(folder / "box.safetensors"),
                "--pose.features.extractor",
                "tiny_nano",
            ]
        )
        == 2
    )
    assert "was onboarded with the extractor" in capsys.readouterr().err
    assert not (tmp_path / "predictions.jsonl").exists()


def test_replay_without_databases_runs_the_features(folder: Path, tmp_path: Path) -> None:
    assert main(["replay", str(folder / "bag"), "--out", str(tmp_path), "--replay.max-frames", "1"]) == 0
    assert json.loads((tmp_path / "score.json").read_text())["stream"]["num_processed"] == 1
