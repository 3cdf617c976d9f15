import json

import numpy as np
import pytest
from tests.support.closeness import DATA
from tests.support.miniatures.objaverse import write_objaverse
from tests.support.miniatures.scene import miniature_scene
from tests.support.oracle_features import RandomFeatures, scene_oracle

from perception.core.errors import ConfigError, InputError
from perception.core.types import Frame, Grid
from perception.io.images import write_image
from perception_training.benchmarks.correlation import correlate
from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig, features_from_text, weights_identity
from perception_training.benchmarks.pca_pictures import pca_colours, pca_picture
from perception_training.benchmarks.real_frames import kitchen, rgbd_pair
from perception_training.benchmarks.real_matching import RealMatching, RealMatchingConfig
from perception_training.benchmarks.running import SCORE_FORMAT, predict_all, score_folder
from perception_training.data.layouts.objaverse_renders import write_settings
from perception_training.data.readers import open_dataset


def write_room(folder):
    scene = miniature_scene()
    for index, image in enumerate(scene.images):
        write_image(folder / "rgb" / f"{index}.png", image)
    intrinsics = np.stack([camera.matrix for camera in scene.cameras])
    np.savez(folder / "condition.npz", depths=np.stack(scene.depth_m), intrinsics=intrinsics, poses=scene.world_from_camera)
    return folder


def test_perfect_features_match_real_frames_and_random_ones_do_not(tmp_path):
    write_room(tmp_path / "data" / "room")
    config = RealMatchingConfig(sets=("room",), num_points=100)
    benchmark = RealMatching(tmp_path / "data", [scene_oracle(miniature_scene()), RandomFeatures()], config)
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run", benchmark.header)
    by_name = {row["extractor"]: row for row in score.rows}
    assert by_name["oracle"]["room @4"] > 0.97
    assert by_name["random"]["room @4"] < 0.03
    assert by_name["oracle"]["room ms per frame"] > 0


def test_an_unknown_set_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="'attic': unknown; known: redkitchen, rgbd_pair, room"):
        RealMatching(tmp_path, [RandomFeatures()], RealMatchingConfig(sets=("attic",)))


def test_real_frames_that_are_absent_or_too_few_are_named(tmp_path):
    benchmark = RealMatching(tmp_path, [RandomFeatures()])
    with pytest.raises(InputError, match=r"room/condition\.npz"):
        benchmark.predict("room")
    with pytest.raises(InputError, match=r"rgbd_pair/pose\.txt"):
        rgbd_pair(tmp_path / "rgbd_pair")


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "redkitchen").is_dir(), reason=f"no frames at {DATA}")
def test_pairs_of_the_kitchen_lie_at_their_gaps():
    sets = kitchen(DATA / "redkitchen")
    assert [item.name for item in sets] == [f"kitchen, gap {gap}" for gap in (10, 30, 60, 90)]
    for item, gap in zip(sets, (2, 6, 12, 18), strict=True):
        assert {abs(a - b) for a, b in item.pairs} == {gap}
        assert len(item.pairs) >= 12


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "room").is_dir(), reason=f"no frames at {DATA}")
@pytest.mark.parametrize(("extractor", "share"), [("dense_sift,sift_size_px=16", 0.171), ("nano", 0.334)])
def test_extractors_find_their_share_of_the_room(tmp_path, extractor, share):
    """The figure that came with the frames is .171 for dense SIFT (and .327 for ALIKE-n); that of nano is measured."""
    features = BenchmarkFeatures(features_from_text(extractor))
    predict_all(RealMatching(DATA, [features], RealMatchingConfig(sets=("room",), search_stride_px=2)), tmp_path)
    assert score_folder(tmp_path).rows[0]["room @4"] == pytest.approx(share, abs=0.015)


def write_score(folder, benchmark, label, value, headline="ape_percent", **settings):
    folder.mkdir(parents=True)
    content = {"format": SCORE_FORMAT, "benchmark": benchmark, "label": label, "headline": headline, "summary": {headline: value}}
    (folder / "score.json").write_text(json.dumps({**content, "predictions": {"config": {"settings": settings}}}))
    return folder


def runs(root, ape=(10.0, 20.0, 30.0), recall=(0.9, 0.7, 0.2)):
    paths = [write_score(root / f"c{i}", "correspondence", f"net {i}", value, data="objaverse") for i, value in enumerate(ape)]
    paths += [write_score(root / f"p{i}", "one_shot_pose", f"net {i}", value, "recall_5cm_5deg") for i, value in enumerate(recall)]
    return paths


def test_tasks_that_follow_ape_correlate_fully(tmp_path):
    score = correlate(runs(tmp_path))
    assert score.summary == {"one_shot_pose": pytest.approx(-1.0)}
    assert [(row["ape_percent"], row["value"]) for row in score.rows] == [(10.0, 0.9), (20.0, 0.7), (30.0, 0.2)]
    assert score.figures["correlation.png"].startswith(b"\x89PNG")


def test_ape_of_two_data_sets_has_to_be_chosen(tmp_path):
    paths = [*runs(tmp_path), write_score(tmp_path / "m", "correspondence", "net 1", 12.0, data="mvimgnet")]
    with pytest.raises(InputError, match=r"mvimgnet, objaverse.*--ape-data"):
        correlate(paths)
    assert set(correlate(paths, "objaverse").summary) == {"one_shot_pose", "correspondence mvimgnet"}


def test_scores_without_ape_twice_or_of_something_else_are_refused(tmp_path):
    paths = runs(tmp_path)
    with pytest.raises(InputError, match=r"APE is known o[nf] none"):
        correlate(paths[3:])
    twice = write_score(tmp_path / "again", "one_shot_pose", "net 0", 0.5, "recall_5cm_5deg")
    with pytest.raises(InputError, match="'net 0'"):
        correlate([*paths, twice])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"other\.json: no score of a benchmark"):
        correlate([tmp_path / "other.json"])


def test_colours_of_perfect_features_stay_with_the_surface():
    scene, oracle = miniature_scene(), scene_oracle(miniature_scene())
    maps = [oracle.step(Frame(image, index + 1)) for index, image in enumerate(scene.images)]
    colours = pca_colours(maps, [None] * len(maps))
    points = [np.rint(scene.points_px[frame]).astype(int) for frame in (0, 3)]
    both = scene.visible[0] & scene.visible[3]
    seen = [colours[frame][at[both, 1], at[both, 0]].astype(float) for frame, at in zip((0, 3), points, strict=True)]
    assert np.abs(seen[0] - seen[1]).mean() < 0.25 * np.abs(seen[0] - seen[1][::-1]).mean()


def test_a_pca_picture_has_a_row_for_the_images_and_one_for_each_extractor(tmp_path):
    write_objaverse(tmp_path, miniature_scene())
    write_settings(tmp_path / "objaverse_renderings", miniature_scene().cameras[0], {})
    sequence = open_dataset("objaverse", tmp_path / "objaverse_renderings")[0]
    features = [scene_oracle(miniature_scene(), stride_px=4), RandomFeatures(stride_px=4)]
    picture = pca_picture(sequence, features, num_views=3, height_px=60)
    assert picture.shape == (3 * 60 + 2 * 4, 3 * 80 + 2 * 4, 3)
    with pytest.raises(InputError, match="no extractor"):
        pca_picture(sequence, [])


@pytest.mark.parametrize("side_px", [80, 160, 320])
def test_results_are_in_pixels_of_the_image_whatever_size_the_extractor_sees(side_px):
    image = miniature_scene().images[0]
    features = BenchmarkFeatures(BenchmarkFeaturesConfig(image_side_px=side_px))
    found = features.step(Frame(image, 1))
    plain = BenchmarkFeatures(BenchmarkFeaturesConfig()).step(Frame(image, 1))
    assert found.image_size == plain.image_size == (120, 160)
    assert isinstance(found.grid, Grid)
    assert found.grid.stride_px == pytest.approx(tuple(4 * 160 / side_px for _ in range(2)))
    rows, cols = found.descriptors.shape[1:]
    last = [found.grid.offset_px[axis] + (num - 1) * found.grid.stride_px[axis] for axis, num in enumerate((cols, rows))]
    assert 0 <= found.grid.offset_px[0] < found.grid.stride_px[0]
    assert last[0] <= 160
    assert last[1] <= 120


def test_settings_of_extractors_are_read_from_words():
    config = features_from_text("dense_sift,sift_size_px=16,image_side_px=320,label=SIFT")
    assert (config.extractor, config.sift_size_px, config.image_side_px, config.label) == ("dense_sift", 16.0, 320, "SIFT")
    with pytest.raises(ConfigError, match="must be a setting"):
        features_from_text("dense_sift,16")
    with pytest.raises(ConfigError, match="unknown key"):
        features_from_text("dense_sift,size=16")


def test_other_weights_are_another_setup(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"one")
    config = BenchmarkFeaturesConfig(weights=str(tmp_path / "weights.pth"))
    before = weights_identity(config)
    (tmp_path / "weights.pth").write_bytes(b"two")
    assert weights_identity(config) != before
    assert weights_identity(BenchmarkFeaturesConfig(extractor="dense_sift")) == {}
    assert "nano.safetensors" in weights_identity(BenchmarkFeaturesConfig())["weights"]
