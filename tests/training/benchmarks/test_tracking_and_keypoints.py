import numpy as np
import pytest
from tests.support.miniatures.keypoints import SOURCE, TARGET, pair_truth
from tests.support.miniatures.pf_pascal import CATEGORY, write_pf_pascal
from tests.support.miniatures.scene import miniature_scene, seen_by
from tests.support.miniatures.tapvid import VIDEO, write_tapvid_davis
from tests.support.oracle_features import OracleFeatures, RandomFeatures, resized_points, scene_oracle, world_points

from perception.core.errors import InputError
from perception.pipelines.point_tracker import PointTrackerConfig
from perception_training.benchmarks.pf_pascal_pairs import PfPascalBenchmark, PfPascalConfig, letterboxed, score
from perception_training.benchmarks.running import predict_all, score_folder
from perception_training.benchmarks.tapvid_davis import TapVidConfig, TapVidDavisBenchmark, on_raster
from perception_training.data.readers import open_dataset

SHARP = TapVidConfig(max_videos=1, tracker=PointTrackerConfig(radius_px=4.0, temperature=0.02))
SIZE_PX = 128


@pytest.fixture
def tapvid(tmp_path):
    return open_dataset("tapvid_davis", write_tapvid_davis(tmp_path / "set", miniature_scene()))


def test_perfect_features_track_every_point(tapvid, tmp_path):
    benchmark = TapVidDavisBenchmark(tapvid, scene_oracle(miniature_scene()), SHARP)
    assert benchmark.units == (VIDEO,)
    predict_all(benchmark, tmp_path / "run")
    summary = score_folder(tmp_path / "run", benchmark.header).summary
    for mode in ("first", "strided"):
        assert summary[f"{mode}_average_within_percent"] > 95
        assert summary[f"{mode}_occlusion_accuracy_percent"] > 85
        assert summary[f"{mode}_average_jaccard_percent"] > 85
    # Frame 0 alone is a multiple of the stride, so each of the strided queries is one of those points that are seen there.
    assert summary["strided_num_queries"] == int(miniature_scene().visible[0].sum())
    assert summary["first_num_queries"] == int(miniature_scene().visible.any(axis=0).sum())


def test_random_features_track_no_point(tapvid, tmp_path):
    benchmark = TapVidDavisBenchmark(tapvid, RandomFeatures(stride_px=2), SHARP)
    predict_all(benchmark, tmp_path / "run")
    summary = score_folder(tmp_path / "run").summary
    assert summary["first_average_within_percent"] < 5
    assert summary["strided_average_jaccard_percent"] < 5


def test_the_raster_counts_from_the_corner_of_the_image():
    np.testing.assert_allclose(on_raster(np.array([[-0.5, -0.5], [159.5, 119.5]]), (120, 160)), [[0, 0], [256, 256]])


def test_videos_frames_and_queries_can_be_limited(tapvid):
    config = TapVidConfig(max_videos=1, max_frames=2, max_queries=3, tracker=SHARP.tracker)
    benchmark = TapVidDavisBenchmark(tapvid, scene_oracle(miniature_scene()), config)
    assert len(benchmark.units) == 1
    record = benchmark.predict(benchmark.units[0])
    assert record["first"]["points"].shape == (3, 2, 2)


@pytest.fixture
def pf_pascal(tmp_path):
    return open_dataset("pf_pascal", write_pf_pascal(tmp_path / "set", pair_truth()), {"view": "same"})


def letterbox_oracle() -> OracleFeatures:
    scene = miniature_scene()
    larger = seen_by(scene, scene.cameras[0].resized(320, 240))
    known = []
    for image, points in zip(pair_truth().images, (world_points(scene, SOURCE), world_points(larger, TARGET)), strict=True):
        square = letterboxed(image, SIZE_PX)
        width, height = SIZE_PX, round(SIZE_PX * 0.75)
        placed = np.full((SIZE_PX, SIZE_PX, 3), np.nan)
        placed[(SIZE_PX - height) // 2 :][:height, :width] = resized_points(points, width, height)
        known.append((square, placed))
    return OracleFeatures(known)


def test_perfect_features_find_every_keypoint(pf_pascal, tmp_path):
    benchmark = PfPascalBenchmark(pf_pascal, letterbox_oracle(), PfPascalConfig(size_px=SIZE_PX))
    predict_all(benchmark, tmp_path / "run")
    found = score_folder(tmp_path / "run", benchmark.header)
    assert [row["category"] for row in found.rows] == [CATEGORY]
    assert found.rows[0]["num_keypoints"] == len(pair_truth().common)
    assert found.summary["pck_5_percent"] == 100.0


def test_random_features_find_keypoints_by_chance_only(pf_pascal, tmp_path):
    benchmark = PfPascalBenchmark(pf_pascal, RandomFeatures(), PfPascalConfig(size_px=SIZE_PX))
    predict_all(benchmark, tmp_path / "run")
    assert score_folder(tmp_path / "run").summary["pck_5_percent"] < 15


def test_the_square_holds_the_whole_image_in_its_middle():
    square = letterboxed(np.full((60, 120, 3), 200, np.uint8), 240)
    assert square[:60].max() == 0
    assert square[60:180].min() == 200
    assert square[180:].max() == 0


def test_pairs_without_common_keypoints_alone_are_no_score():
    with pytest.raises(InputError, match="no pair has a keypoint"):
        score({"0": {"category": "sheep", "errors_px": [], "size_px": 840}})
