"""Replay of a small bag: with a stand-in for the pipeline whose errors are known, and with the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.types import Camera, FeatureMap, Frame, Grid, NoPose, PoseEstimate, PoseResult, ReferenceView
from perception.evaluation.pictures import read_pictures
from perception.evaluation.predictions import read_predictions, read_status_messages, read_truth
from perception.evaluation.replay import ReplayConfig, features_only, pipeline_header, replay_bag
from perception.evaluation.report import write_report
from perception.evaluation.run_folder import OUTPUT_BAG, PREDICTIONS_FILE, REPORT_FILE, TRUTH_FILE, RunDescription
from perception.evaluation.score import score_files
from perception.geometry import se3
from perception.geometry.camera import project
from perception.io.bags import BagReader, BagWriter
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig

CAMERA = Camera(320, 240, 300.0, 300.0, 159.5, 119.5)
SIDE_M = 0.3
STEP_NS = 100_000_000
NUM_FRAMES = 8


def true_pose(index: int) -> np.ndarray:
    """The camera swings before a poster."""
    angle = 0.05 * (index - NUM_FRAMES / 2)
    return se3.exp(np.array([0.02 * index - SIDE_M / 2, -SIDE_M / 2, 0.36, 0.1, angle, 0.02 * index]))


def poster(camera_from_object: np.ndarray) -> np.ndarray:
    """A textured square of SIDE_M in the plane z = 0 of the object, seen by CAMERA."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (480, 480), interpolation=cv2.INTER_CUBIC)
    corners = np.array([[0, 0, 0], [SIDE_M, 0, 0], [SIDE_M, SIDE_M, 0], [0, SIDE_M, 0]])
    corners_px = project(se3.transform_points(camera_from_object, corners), CAMERA).astype(np.float32)
    warp = cv2.getPerspectiveTransform(np.array([[0, 0], [479, 0], [479, 479], [0, 479]], np.float32), corners_px)
    return cv2.warpPerspective(texture, warp, (CAMERA.width, CAMERA.height), flags=cv2.INTER_LINEAR, borderValue=(90, 90, 90))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "poster"
    with BagWriter(path) as writer:
        for index in range(NUM_FRAMES):
            time_ns = 10**18 + index * STEP_NS
            writer.write_camera_info("/camera/camera_info", time_ns, CAMERA, "camera")
            writer.write_image("/camera/image_raw", time_ns, poster(true_pose(index)), frame_id="camera")
            writer.write_pose("/ground_truth/poster/pose", time_ns, true_pose(index), "camera")
    return path


def index_of(frame: Frame) -> int:
    return (frame.time_ns - 10**18) // STEP_NS


def shifted_by_index(frame: Frame) -> PoseResult:
    """Wrong by as many centimetres as the frame's number; no pose in frame 3."""
    index = index_of(frame)
    descriptors = torch.nn.functional.normalize(torch.randn(8, 12, 16, generator=torch.Generator().manual_seed(index)), dim=0)
    features = FeatureMap(descriptors, Grid((9.5, 9.5), (20.0, 20.0)), (240, 320), "random", frame.time_ns)
    if index == 3:
        return PoseResult(frame.time_ns, frame.frame_id, (), (NoPose("poster", "too few matches (2 of 6 needed)", 2),), features)
    pose = true_pose(index)
    pose[0, 3] += 0.01 * index
    points = np.random.default_rng(1).uniform(0, SIDE_M, (30, 3)) * [1, 1, 0]
    points_px = project(se3.transform_points(pose, points), CAMERA).astype(np.float32)
    bounds = np.array([[0, 0, -0.01], [SIDE_M, SIDE_M, 0.01]], np.float32)
    estimate = PoseEstimate("poster", pose, np.eye(6), 0.9, 40, 30, 1.0, points_px, points.astype(np.float32), bounds)
    return PoseResult(frame.time_ns, frame.frame_id, (estimate,), (), features)


def replayed(bag: Path, folder: Path, step: Callable[[Frame], PoseResult] = shifted_by_index, config: ReplayConfig | None = None) -> Path:
    config = config or ReplayConfig()
    return replay_bag(bag, step, config, folder, pipeline_header(DenseFeaturesConfig(), config, bag)).folder


@pytest.fixture(scope="module")
def run(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replayed(bag, tmp_path_factory.mktemp("run"))


def test_scores_are_those_of_the_known_errors(run: Path) -> None:
    _, score = write_report(run)
    errors_cm = np.array([error.translation_cm for error in score.errors])
    assert_close(errors_cm, np.array([0, 1, 2, np.inf, 4, 5, 6, 7]), atol=1e-6)
    assert (score.overall.num_frames, score.overall.num_answered, score.overall.num_not_processed) == (8, 7, 0)
    assert (run / REPORT_FILE).stat().st_size > 10_000


def test_truth_comes_from_the_bag(run: Path) -> None:
    _, truth = read_truth(run / TRUTH_FILE)
    assert len(truth) == NUM_FRAMES
    assert_close(truth[5].camera_from_object, true_pose(5), atol=1e-12)


def test_output_bag_has_the_topics_of_the_nodes(run: Path) -> None:
    with BagReader(run / OUTPUT_BAG) as reader:
        counts = {name: topic.num_messages for name, topic in reader.topics.items()}
        assert_close(reader.poses("/object_pose/objects/poster/pose").parent_from_child[1], true_pose(1) + np.eye(4, k=3) * 0.01, atol=1e-9)
        overlays = list(reader.frames("/object_pose/overlay/compressed", "/object_pose/overlay/camera_info"))
    assert counts["/object_pose/objects/poster/pose"] == 7
    assert counts["/ground_truth/poster/pose"] == counts["/features/visualization/compressed"] == counts["/object_pose/status"] == 8
    assert [frame.time_ns for frame in overlays] == [10**18 + k * STEP_NS for k in range(8)]
    assert overlays[0].camera == CAMERA
    assert next((run / OUTPUT_BAG).glob("*.mcap")).stat().st_size > 1000


def test_status_in_the_output_bag_gives_the_same_predictions(run: Path) -> None:
    _, written = read_predictions(run / PREDICTIONS_FILE)
    for recorded, record in zip(read_status_messages(run / OUTPUT_BAG), written, strict=True):
        for name, value in vars(record).items():
            np.testing.assert_equal(getattr(recorded, name), value)


def test_pictures_show_each_kind_once(run: Path) -> None:
    pictures = read_pictures(run)
    kinds = [picture.kind for picture in pictures]
    assert [kinds.count(kind) for kind in ("best", "median", "worst", "missed", "features")] == [2, 2, 2, 1, 6]
    assert "0.00 cm" in pictures[0].caption
    assert next(picture for picture in pictures if picture.kind == "missed").caption == "0.3 s · poster · too few matches (2 of 6 needed)"
    assert cv2.imread(str(run / "pictures" / pictures[0].file)).shape == (240, 320, 3)


def test_every_nth_frame_and_limit(bag: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    config = ReplayConfig(every=3, max_frames=2, record=False)
    summary = replay_bag(
        bag, shifted_by_index, config, tmp_path, pipeline_header(DenseFeaturesConfig(), config, bag), progress=lambda *a: calls.append(a)
    )
    assert summary.num_frames == 2
    assert calls == [(1, 2), (2, 2)]
    _, records = read_predictions(tmp_path / PREDICTIONS_FILE)
    assert [(record.time_ns - 10**18) // STEP_NS for record in records] == [0, 3]
    assert not (tmp_path / OUTPUT_BAG).exists()


def test_interrupted_replay_leaves_the_old_run(bag: Path, tmp_path: Path) -> None:
    replayed(bag, tmp_path)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def killed_at_frame_4(frame: Frame) -> PoseResult:
        if index_of(frame) == 4:
            raise KeyboardInterrupt
        return shifted_by_index(frame)

    with pytest.raises(KeyboardInterrupt):
        replayed(bag, tmp_path, killed_at_frame_4)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_second_replay_replaces_the_first(bag: Path, tmp_path: Path) -> None:
    replayed(bag, tmp_path)
    replayed(bag, tmp_path, config=ReplayConfig(max_frames=1))
    assert len(read_predictions(tmp_path / PREDICTIONS_FILE)[1]) == 1
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 2
    assert not list(tmp_path.glob(".replay-*"))


def test_predictions_of_other_settings_are_stale(bag: Path, run: Path) -> None:
    other = pipeline_header(DenseFeaturesConfig(max_image_side_px=320), ReplayConfig(), bag)
    with pytest.raises(InputError, match=r"pipeline\.max_image_side_px is 0, expected 320"):
        write_report(run, expected=other)
    score_files(run / PREDICTIONS_FILE, run / TRUTH_FILE, expected=pipeline_header(DenseFeaturesConfig(), ReplayConfig(), bag))


def test_changed_database_makes_predictions_stale(bag: Path, tmp_path: Path) -> None:
    database = tmp_path / "mug.safetensors"
    headers = []
    for content in (b"one", b"two"):
        database.write_bytes(content)
        headers.append(pipeline_header(DenseFeaturesConfig(), ReplayConfig(), bag, (str(database),)))
    assert "databases.mug.safetensors" in headers[0].differences(headers[1])[0]


def test_refused_frame_is_a_miss_with_its_reason(bag: Path, tmp_path: Path) -> None:
    def refuses_frame_2(frame: Frame) -> PoseResult:
        if index_of(frame) == 2:
            raise InputError("too dark")
        return shifted_by_index(frame)

    config = ReplayConfig()
    summary = replay_bag(bag, refuses_frame_2, config, tmp_path, pipeline_header(DenseFeaturesConfig(), config, bag))
    assert (summary.num_frames, summary.num_refused) == (8, 1)
    score = score_files(tmp_path / PREDICTIONS_FILE, tmp_path / TRUTH_FILE)
    assert score.overall.num_answered == 6
    assert "too dark" in {record.reason for record in score.predictions}


def test_pipeline_that_cannot_take_the_first_frame_ends_the_replay(bag: Path, tmp_path: Path) -> None:
    def refuses(frame: Frame) -> PoseResult:
        raise InputError("no camera")

    with pytest.raises(InputError, match="no camera"):
        replayed(bag, tmp_path, refuses)
    assert not list(tmp_path.iterdir())


def test_ambiguous_and_missing_topics_are_listed(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "two") as writer:
        for topic in ("/left/image_raw", "/right/image_raw"):
            writer.write_image(topic, 1, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"/left/image_raw, /right/image_raw"):
        replayed(tmp_path / "two", tmp_path / "run")
    with pytest.raises(InputError, match=r"/left/image_raw"):
        replayed(tmp_path / "two", tmp_path / "run", config=ReplayConfig(image_topic="/middle"))
    replayed(tmp_path / "two", tmp_path / "run", lambda frame: PoseResult(frame.time_ns, "", ()), ReplayConfig(image_topic="/left/image_raw"))
    assert read_truth(tmp_path / "run" / TRUTH_FILE)[1] == []


def test_features_alone(bag: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    replayed(bag, tmp_path, features_only(DenseFeatures(DenseFeaturesConfig())), ReplayConfig(max_frames=2))
    assert [picture.kind for picture in read_pictures(tmp_path)].count("features") == 2
    score = score_files(tmp_path / PREDICTIONS_FILE, None)
    assert score.stream.num_processed == 2
    assert score.stream.step_p50_s > 0


def test_one_shot_pose_from_bag_to_report(bag: Path, tmp_path: Path) -> None:
    """Onboarded from two views with depth, replayed on every third frame: each within 3 cm and 3 degrees, half of them within 1 cm."""
    from perception.pipelines.onboarding import OnboardingConfig, build_database
    from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig

    torch.set_num_threads(2)
    features = DenseFeatures(DenseFeaturesConfig())
    database = build_database("poster", [reference_view(index) for index in (0, 6)], features, OnboardingConfig(num_words=64, max_descriptors=8000))
    config = ReplayConfig(every=3)
    pipeline = OneShotPose(OneShotPoseConfig(), features)
    pipeline.add_object(database)
    header = pipeline_header(pipeline.config, config, bag)
    description = RunDescription(title="Poster", command="pytest tests/replay")
    replay_bag(bag, pipeline.step, config, tmp_path, header, description)
    _, score = write_report(tmp_path, expected=header)
    assert score.overall.num_frames == 3
    assert score.overall.num_not_processed == NUM_FRAMES - 3
    assert score.overall.recall_3cm_3deg == 1.0
    assert score.overall.median_translation_cm < 1.0
    assert json.loads((tmp_path / "score.json").read_text())["overall"]["recall_3cm_3deg"] == 1.0
    assert "Poster" in (tmp_path / REPORT_FILE).read_text()


def reference_view(index: int) -> ReferenceView:
    """A view of the poster with the depth of its plane."""
    pose = true_pose(index)
    columns, rows = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(columns - CAMERA.cx) / CAMERA.fx, (rows - CAMERA.cy) / CAMERA.fy, np.ones(rows.shape)], axis=-1)
    depth_m = (pose[:3, 2] @ pose[:3, 3]) / (rays @ pose[:3, 2])
    points_object = se3.transform_points(se3.inverse(pose), rays * depth_m[..., None])
    mask = ((points_object[..., :2] > 0.005) & (points_object[..., :2] < SIDE_M - 0.005)).all(axis=-1)
    frame = Frame(poster(pose), index, CAMERA, source="references", depth_m=depth_m.astype(np.float32), mask=mask)
    return ReferenceView(frame, pose)
