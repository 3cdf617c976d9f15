"""The demo as a user runs it: real node processes, a small scene. `--frames`, then `--bag` on the bag that it wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from perception.cli.main import main
from perception.geometry import se3
from perception.io.bags import BagReader
from perception.io.images import write_image
from perception.rendering.tabletop import TabletopScene

pytestmark = [pytest.mark.ros, pytest.mark.slow]

NUM_FRAMES = 12


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of posed RGB-D frames with registered depth: steps back and forth, so that the second half sees what the first saw."""
    folder = tmp_path_factory.mktemp("frames")
    scene = TabletopScene(width=320, height=240, supersampling=1)
    path = scene.trajectory(40)
    order = [*range(0, 12, 2), *range(1, 13, 2)]
    for number, index in enumerate(order):
        view = scene.render(path[index])
        write_image(folder / f"frame-{number:06d}.color.png", view.image)
        write_image(folder / f"frame-{number:06d}.depth.png", np.rint(1000 * view.depth_m).astype(np.uint16))
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", se3.inverse(path[index]))
    np.savetxt(folder / "camera-intrinsics.txt", scene.camera.matrix)
    return folder


@pytest.fixture(scope="module")
def run_folder(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    assert main(["demo", "--frames", str(frames), "--reference-every", "2", "--sift-size-px", "8", "--out", str(out)]) == 0
    return out


def test_the_camera_is_found_in_the_scene(run_folder: Path) -> None:
    score = json.loads((run_folder / "score.json").read_text())
    overall = score["overall"]
    assert score["position"] == "camera"
    assert overall["num_frames"] == NUM_FRAMES // 2
    assert overall["num_not_processed"] == 0
    assert overall["recall_5cm_5deg"] == 1.0
    assert overall["median_translation_cm"] < 2.0
    assert overall["median_rotation_deg"] < 1.0
    assert 0 < score["stream"]["step_p50_s"] <= score["stream"]["latency_p50_s"]


def test_the_recording_has_what_was_played_and_what_was_said(run_folder: Path) -> None:
    with BagReader(run_folder / "recording") as reader:
        counts = {name: topic.num_messages for name, topic in reader.topics.items()}
    each_frame = (
        "/camera/image_raw",
        "/features/status",
        "/features/features",
        "/features/visualization",
        "/object_pose/status",
        "/object_pose/overlay",
    )
    assert {topic: counts[topic] for topic in each_frame} == dict.fromkeys(each_frame, NUM_FRAMES // 2)
    assert counts["/features/metadata"] == 1


def test_the_report_stands_alone(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (run_folder / "report.html").read_text()
    assert first.count("data:image/") > 5
    assert "perception demo --frames" in first
    (run_folder / "report.html").unlink()
    assert main(["report", str(run_folder)]) == 0
    assert (run_folder / "report.html").read_text() == first
    assert str(run_folder / "report.html") in capsys.readouterr().out


def test_any_bag_goes_through_the_features_node(run_folder: Path, tmp_path: Path) -> None:
    assert main(["demo", "--bag", str(run_folder / "bag"), "--out", str(tmp_path)]) == 0
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["stream"]["num_processed"] == NUM_FRAMES // 2
    with BagReader(tmp_path / "recording") as reader:
        assert not any(name.startswith("/object_pose") for name in reader.topics)


def test_bad_input_is_one_line_before_anything_is_started(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["demo", "--bag", str(tmp_path / "none")], "no such file or folder"),
        (["demo", "--bag", str(run_folder / "bag"), "--image-topic", "/other"], "/camera/image_raw"),
        (["demo", "--bag", str(run_folder / "bag"), "--databases", str(tmp_path / "none")], "no such file"),
        (["demo", "--frames", str(tmp_path)], "frame-000000.color"),
        (["report", str(tmp_path)], "predictions.jsonl"),
    ):
        assert main([*arguments, *([] if arguments[0] == "report" else ["--out", str(tmp_path / "out")])]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
