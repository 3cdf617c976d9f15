"""The parts of the demo that need no running node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from tests.support.closeness import assert_close

from perception.cli import demo, demo_bag, demo_frames, demo_stream, demo_tabletop, doctor
from perception.core.errors import ConfigError, InputError
from perception.core.types import Camera
from perception.io.bags import BagReader, BagWriter
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.rendering.tabletop import TabletopScene


class SilentStep:
    """Takes the place of a step on the terminal."""

    result = ""

    def progress(self, done: int, total: int) -> None:
        assert 0 < done <= total


def test_the_first_half_gives_references_and_the_second_is_sought() -> None:
    references, queries = demo_frames.split(150, 5)
    assert list(references) == list(range(0, 75, 5))
    assert queries == range(75, 150)
    assert demo_frames.split(9, 1, max_queries=2) == (range(0, 4), range(4, 6))
    with pytest.raises(InputError, match="3 posed frames: at least 4"):
        demo_frames.split(3, 5)


def test_arguments_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="--frames and --bag"):
        demo.run(demo.Arguments(frames=Path("a"), bag=Path("b")))
    with pytest.raises(ConfigError, match="--reference-every 0"):
        demo.run(demo.Arguments(reference_every=0))


def test_the_command_of_a_run_names_what_was_given() -> None:
    arguments = demo.Arguments(bag=Path("a b"), databases=(Path("x"), Path("y")), num_frames=3)
    assert demo_stream.played_command(arguments) == "perception demo --bag 'a b' --num-frames 3 --databases x y"


def test_features_follow_the_arguments_then_the_scene() -> None:
    assert demo_stream.features_config(demo.Arguments()) == OneShotPoseConfig().features
    assert demo_stream.features_config(demo.Arguments(sift_size_px=9.0)).sift_size_px == 9.0
    assert demo_stream.features_config(demo.Arguments(extractor="alike_n", weights="w.pth")).weights == "w.pth"


@pytest.fixture
def two_camera_bag(tmp_path: Path) -> Path:
    image = np.zeros((8, 8, 3), np.uint8)
    with BagWriter(tmp_path / "bag") as writer:
        for side in ("left", "right"):
            writer.write_image(f"/{side}/image_raw", 1, image)
        writer.write_camera_info("/left/camera_info", 1, Camera(8, 8, 5.0, 5.0, 3.5, 3.5))
        writer.write_compressed_image("/front/image_raw/compressed", 1, image)
    return tmp_path / "bag"


def test_topics_of_a_bag_are_chosen_or_listed(two_camera_bag: Path) -> None:
    with pytest.raises(InputError, match=r"3 image topics \(.*/left/image_raw, /right/image_raw\): choose one with --image-topic"):
        demo_bag.choose_topics(two_camera_bag, "", "", needs_camera=False)
    stream = demo_bag.choose_topics(two_camera_bag, "/left/image_raw", "", needs_camera=True)
    assert stream.topics == ("/left/image_raw", "/left/camera_info")
    assert demo_bag.choose_topics(two_camera_bag, "/front/image_raw/compressed", "", needs_camera=False).compressed
    with pytest.raises(InputError, match="/left/camera_info"):
        demo_bag.choose_topics(two_camera_bag, "/left/image_raw", "/nothing", needs_camera=True)


def test_the_clip_shows_the_object_alone_in_depth_and_ends_in_a_pose(tmp_path: Path) -> None:
    scene = TabletopScene(width=96, height=72, supersampling=1)
    demo_tabletop.write_clip(scene, 3, tmp_path / "clip", SilentStep())  # type: ignore[arg-type]
    with BagReader(tmp_path / "clip") as reader:
        frames = list(reader.frames(demo_stream.IMAGE_TOPIC, demo_stream.CAMERA_INFO_TOPIC, demo_tabletop.CLIP_DEPTH_TOPIC))
        poses = reader.poses(demo_tabletop.CLIP_POSE_TOPIC)
    assert len(frames) == len(poses.times_ns) == 3
    for frame, camera_from_object in zip(frames, poses.parent_from_child, strict=True):
        assert frame.depth_m is not None
        rows, cols = np.nonzero(frame.depth_m)
        assert 20 < len(rows) < 0.2 * frame.depth_m.size
        depth = frame.depth_m[rows, cols]
        points = np.stack([(cols - scene.camera.cx) / scene.camera.fx * depth, (rows - scene.camera.cy) / scene.camera.fy * depth, depth], axis=1)
        points_object = (points - camera_from_object[:3, 3]) @ camera_from_object[:3, :3]
        extent = np.abs(scene.objects["can"].mesh.bounds).max(0)
        assert (np.abs(points_object) < extent + 0.003).all()


def test_the_played_bag_has_the_truth_at_the_images_stamps(tmp_path: Path) -> None:
    scene = TabletopScene(width=64, height=48, supersampling=1)
    demo_tabletop.write_stream(scene, 2, tmp_path / "bag", SilentStep())  # type: ignore[arg-type]
    with BagReader(tmp_path / "bag") as reader:
        times = [frame.time_ns for frame in reader.frames(demo_stream.IMAGE_TOPIC, demo_stream.CAMERA_INFO_TOPIC)]
        track = reader.poses(demo_stream.truth_topic("box"))
    assert track.times_ns.tolist() == times
    assert_close(track.parent_from_child, scene.trajectory(2) @ scene.objects["box"].world_from_object)


def test_doctor_names_the_command_that_mends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = doctor.check_messages("no_such_msgs", "", needed=True)
    assert (missing.verdict, missing.mend) == ("missing", "pip install ros-no-such-msgs")
    assert doctor.check_messages("no_such_msgs", "no TF").verdict == "note"
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(tmp_path / "none.xml"))
    assert doctor.check_fast_dds_profile().verdict == "missing"
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, lambda: missing))
    assert doctor.run(doctor.Arguments()) == 1
    output = capsys.readouterr().out
    assert "✗ no_such_msgs" in output
    assert "→ pip install ros-no-such-msgs" in output
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, doctor.check_rclpy, doctor.check_share))
    assert doctor.run(doctor.Arguments()) == 0
