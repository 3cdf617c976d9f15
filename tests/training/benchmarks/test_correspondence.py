from functools import cache

import numpy as np
import pytest
from tests.support.miniatures.keypoints import pair_truth
from tests.support.miniatures.mvimgnet import write_mvimgnet
from tests.support.miniatures.objaverse import write_objaverse
from tests.support.miniatures.pf_pascal import write_pf_pascal
from tests.support.miniatures.scene import MiniatureScene, miniature_scene, seen_by
from tests.support.oracle_features import OracleFeatures, RandomFeatures, scene_oracle

from perception.core.errors import InputError
from perception.core.types import Camera
from perception_training.benchmarks.correspondence import Correspondence, CorrespondenceConfig
from perception_training.benchmarks.running import predict_all, score_folder
from perception_training.data.layouts.objaverse_renders import write_settings
from perception_training.data.readers import open_dataset

SMALL = CorrespondenceConfig(point_stride_px=6, search_stride_px=1)


@cache
def radial_scene() -> MiniatureScene:
    return seen_by(miniature_scene(), Camera(160, 120, 150.0, 150.0, 78.4, 61.2, "plumb_bob", (-0.1, 0.0, 0.0, 0.0)))


@pytest.fixture
def objaverse(tmp_path):
    write_objaverse(tmp_path / "set", miniature_scene())
    write_settings(tmp_path / "set" / "objaverse_renderings", miniature_scene().cameras[0], {})
    return open_dataset("objaverse", tmp_path / "set" / "objaverse_renderings")


def test_perfect_features_find_every_point_of_renders(objaverse, tmp_path):
    benchmark = Correspondence(objaverse, scene_oracle(miniature_scene()), SMALL)
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run", benchmark.header)
    assert score.summary["num_pairs"] == 12
    assert score.summary["num_points"] > 2000
    assert score.summary["ape_percent"] < 1.0
    near = [row for row in score.rows if row["sequence"] in ("all, turned 30 to 60 deg", "all, turned 60 to 90 deg", "all, turned 15 to 30 deg")]
    total = sum(row["num_points"] * row["ape_percent"] for row in near if row["num_points"]) / sum(row["num_points"] for row in near)
    assert score.summary["ape_within_90_deg_percent"] == pytest.approx(total)
    assert score.summary["pcdp_5_percent"] > 99.0


def test_random_features_are_right_by_chance_only(objaverse, tmp_path):
    benchmark = Correspondence(objaverse, RandomFeatures(), SMALL)
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run")
    # A disc of 5 % of the shortest edge is this share of the image; points lie away from its rim.
    chance = 100 * np.pi * (0.05 * 120) ** 2 / (160 * 120)
    assert 0.4 * chance < score.summary["pcdp_5_percent"] < 1.8 * chance
    assert 30 < score.summary["ape_percent"] < 80


def test_points_of_a_reconstruction_are_compared_where_there_is_no_depth(tmp_path):
    write_mvimgnet(tmp_path / "set", radial_scene())
    dataset = open_dataset("mvimgnet", tmp_path / "set")
    for features, low, high in ((scene_oracle(radial_scene()), 99.0, 100.0), (RandomFeatures(), 0.0, 15.0)):
        benchmark = Correspondence(dataset, features, SMALL)
        predict_all(benchmark, tmp_path / features.label)
        score = score_folder(tmp_path / features.label)
        assert score.summary["num_points"] > 10
        assert low <= score.summary["pcdp_5_percent"] <= high


def test_procedural_scenes_are_compared_where_they_stand_still(tmp_path):
    options = {"num_clips": 1, "scenes": {"width": 96, "height": 72, "num_frames": 3, "samples_per_pixel": 1, "num_tracks": 8, "num_textures": 8}}
    dataset = open_dataset("scenes", tmp_path, options)
    sequence = dataset[0]
    sample = sequence.load(range(3))
    benchmark = Correspondence(dataset, OracleFeatures([(sample.images[i], sample.points_world(i)) for i in range(3)], scale=0.2), SMALL)
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run")
    assert score.summary["num_points"] > 100
    assert score.summary["pcdp_5_percent"] > 97.0


def test_views_and_points_can_be_limited(objaverse):
    config = CorrespondenceConfig(point_stride_px=6, search_stride_px=2, max_views=2, max_points=20)
    record = Correspondence(objaverse, scene_oracle(miniature_scene()), config).predict(objaverse.sequence_names[0])
    assert record["num_views"] == 2
    assert (sum(record["num_pairs"]), sum(record["num_points"])) == (2, 40)


def test_what_is_stored_does_not_grow_with_pixels(objaverse, tmp_path):
    benchmark = Correspondence(objaverse, scene_oracle(miniature_scene()), SMALL)
    records = predict_all(benchmark, tmp_path / "run")
    assert records.path.stat().st_size < 8000


def test_a_set_without_poses_is_refused_with_its_path(tmp_path):
    folder = write_pf_pascal(tmp_path, pair_truth())
    benchmark = Correspondence(open_dataset("pf_pascal", folder), RandomFeatures(), SMALL)
    with pytest.raises(InputError, match=r"JPEGImages/2008_001876\.jpg.*no camera poses"):
        benchmark.predict(benchmark.units[0])


def test_asking_for_depth_where_there_is_none_is_refused(tmp_path):
    write_mvimgnet(tmp_path, radial_scene())
    benchmark = Correspondence(open_dataset("mvimgnet", tmp_path), RandomFeatures(), CorrespondenceConfig(points="depth"))
    with pytest.raises(InputError, match="points = 'depth'"):
        benchmark.predict(benchmark.units[0])
