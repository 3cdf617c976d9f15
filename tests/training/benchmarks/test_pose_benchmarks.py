import json

import cv2
import numpy as np
import pytest
from tests.support.miniatures.bop import IMAGE_IDS, OBJECT_IDS, write_bop
from tests.support.miniatures.objects import BOUNDS
from tests.support.miniatures.onepose import CROP_PX, crop_from_full, write_onepose
from tests.support.miniatures.scene import WORLD_FROM_BOX, meshes, miniature_scene
from tests.support.miniatures.seven_scenes import colour_scene, write_frames
from tests.support.oracle_features import OracleFeatures, RandomFeatures, scene_oracle, world_points

from perception.core.errors import ConfigError, InputError
from perception.geometry import se3
from perception.geometry.camera import depth_to_points
from perception.io import meshes as mesh_files
from perception.pipelines.onboarding import OnboardingConfig
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.pipelines.triangulated_tracks import TrackingConfig
from perception.rendering.reference_sources import ReferenceConfig, open_references
from perception_training.benchmarks import bop_pose
from perception_training.benchmarks.bop_objects import read_target_counts
from perception_training.benchmarks.bop_pose import BopPose, BopPoseConfig
from perception_training.benchmarks.one_shot_pose import OnePoseConfig, OneShotPoseBenchmark, box_silhouette, published_pose_config
from perception_training.benchmarks.running import predict_all, score_folder
from perception_training.benchmarks.scene_pose import ScenePose, ScenePoseConfig
from perception_training.data.readers import open_dataset

REFERENCE = ReferenceConfig(num_viewpoints=12, mesh_scale=0.001, render_size_px=96, render_focal_px=105.0, render_supersampling=1)
BOX = OBJECT_IDS["box"]


def box_points(frame: int) -> np.ndarray:
    """Point map of a frame of the scene in the frame of its box."""
    return se3.transform_points(np.linalg.inv(WORLD_FROM_BOX), world_points(miniature_scene(), frame))


def crop_oracle() -> OracleFeatures:
    """Knows the crops of OnePose."""
    scene, known = miniature_scene(), []
    for frame in range(len(scene)):
        crop = crop_from_full(scene, frame)[:2]
        image = cv2.warpAffine(scene.images[frame], crop, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR)
        inverse = np.linalg.inv(crop_from_full(scene, frame))
        x, y = np.meshgrid(np.arange(CROP_PX), np.arange(CROP_PX))
        map_x, map_y = (inverse[axis, axis] * at + inverse[axis, 2] for axis, at in enumerate((x, y)))
        points = cv2.remap(box_points(frame).astype(np.float32), map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)
        known.append((image, points))
    return OracleFeatures(known)


@pytest.fixture
def onepose(tmp_path):
    write_onepose(tmp_path / "set", miniature_scene())
    return open_dataset("onepose_lowtexture", tmp_path / "set")


def onepose_config(pose: OneShotPoseConfig) -> OnePoseConfig:
    return OnePoseConfig(
        reference_step=1, query_step=1, pose=pose, database=OnboardingConfig(num_words=32, num_rolls=0, tracking=TrackingConfig(stride_px=4))
    )


def test_perfect_features_find_the_object_of_onepose(onepose, tmp_path):
    benchmark = OneShotPoseBenchmark(onepose, crop_oracle(), onepose_config(published_pose_config()))
    assert benchmark.units == ("0700-woodbox-others",)
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run", benchmark.header)
    assert score.summary["num_frames"] == 4
    assert score.summary["recall_3cm_3deg"] == 1.0
    assert score.summary["median_rotation_deg"] < 1.0


def test_random_features_cannot_learn_or_find_the_object_of_onepose(onepose, tmp_path):
    benchmark = OneShotPoseBenchmark(onepose, RandomFeatures(), onepose_config(published_pose_config()))
    with pytest.raises(InputError, match=r"woodbox-1/color/0\.png and the other references"):
        benchmark.predict(benchmark.units[0])
    predict_all(benchmark, tmp_path / "run", skip_bad=True)
    with pytest.raises(InputError, match="no unit could be predicted"):
        score_folder(tmp_path / "run")


def test_an_object_with_one_sequence_is_refused(tmp_path):
    write_onepose(tmp_path, miniature_scene(), sequences=(1,))
    benchmark = OneShotPoseBenchmark(open_dataset("onepose_lowtexture", tmp_path), RandomFeatures())
    with pytest.raises(InputError, match=r"0700-woodbox-others: has 1 sequence"):
        benchmark.predict(benchmark.units[0])


def test_the_silhouette_of_a_box_covers_it():
    scene = miniature_scene()
    mask = box_silhouette(BOUNDS["box"], scene.camera_from_object("box")[0], scene.cameras[0])
    seen = scene.masks[0] == 1
    assert mask[seen].mean() > 0.98
    assert mask.sum() < 1.6 * seen.sum()


@pytest.fixture
def bop(tmp_path):
    """The scene, its box with colours that tell its sides apart."""
    root = tmp_path / "set"
    write_bop(root, miniature_scene())
    box = meshes().meshes[meshes().names.index("box")]
    colors = np.random.default_rng(0).integers(0, 255, (len(box.vertices), 3)).astype(np.uint8)
    mesh_files.save(mesh_files.Mesh(box.vertices * 1000, box.faces, vertex_colors=colors), root / "models" / f"obj_{BOX:06d}.ply")
    return open_dataset("bop", root, {"split": "test", "targets_only": True})


def bop_oracle(dataset) -> OracleFeatures:
    """Knows the scene and the renders of the box, all in the frame of the box."""
    scene = miniature_scene()
    known = [(scene.images[frame], box_points(frame)) for frame in range(len(scene))]
    for view in open_references(str(dataset.root / "models" / f"obj_{BOX:06d}.ply"), REFERENCE):
        points = depth_to_points(view.frame.depth_m.astype(np.float64), view.frame.camera)
        known.append((view.frame.image, se3.transform_points(np.linalg.inv(view.camera_from_object), points)))
    return OracleFeatures(known)


def bop_config(**values) -> BopPoseConfig:
    return BopPoseConfig(
        reference=REFERENCE,
        database=OnboardingConfig(num_words=32, num_rolls=0),
        pose=OneShotPoseConfig(temporal_prior=False, min_score=0.0),
        **values,
    )


@pytest.mark.parametrize("where", ["image", "box"])
def test_perfect_features_find_the_targets_of_a_bop_set(bop, tmp_path, where):
    benchmark = BopPose(bop, bop_oracle(bop), tmp_path / "databases", bop_config(where=where))
    assert benchmark.units == tuple(f"test/000048/{IMAGE_IDS[frame]:06d}" for frame in (1, 3))
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run", benchmark.header)
    assert score.summary["num_targets"] == 2
    assert score.summary["ar_mssd"] > 0.85
    assert score.summary["ar_mspd"] > 0.85
    assert score.summary["ar_vsd"] > 0.7
    lines = (tmp_path / "run" / bop_pose.RESULTS_CSV).read_text().splitlines()
    assert lines[0] == "scene_id,im_id,obj_id,score,R,t,time"
    assert [line.split(",")[:3] for line in lines[1:]] == [["48", str(IMAGE_IDS[frame]), str(BOX)] for frame in (1, 3)]
    true_mm = 1000 * miniature_scene().camera_from_object("box")[1, :3, 3]
    np.testing.assert_allclose([float(value) for value in lines[1].split(",")[5].split()], true_mm, atol=20)


def test_random_features_find_none_of_the_targets_of_a_bop_set(bop, tmp_path):
    benchmark = BopPose(bop, RandomFeatures(), tmp_path / "databases", bop_config())
    predict_all(benchmark, tmp_path / "run")
    assert score_folder(tmp_path / "run").summary["ar"] < 0.1


def test_object_databases_are_made_once(bop, tmp_path):
    oracle = bop_oracle(bop)
    BopPose(bop, oracle, tmp_path / "databases", bop_config()).predict(f"test/000048/{IMAGE_IDS[1]:06d}")
    num_steps = oracle.num_steps
    BopPose(bop, oracle, tmp_path / "databases", bop_config()).predict(f"test/000048/{IMAGE_IDS[1]:06d}")
    assert num_steps == 13
    assert oracle.num_steps == num_steps + 1
    assert len(list((tmp_path / "databases").iterdir())) == 1


def test_a_list_of_targets_for_detection_is_refused(tmp_path):
    (tmp_path / "test_targets_bop24.json").write_text(json.dumps([{"scene_id": 1, "im_id": 2}]))
    with pytest.raises(InputError, match=r"test_targets_bop24\.json, entry 0: names no object"):
        read_target_counts(tmp_path)


def test_a_model_without_description_is_refused(bop, tmp_path):
    path = bop.root / "models" / "models_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in info.items() if key != str(BOX)}))
    benchmark = BopPose(bop, bop_oracle(bop), tmp_path / "databases", bop_config())
    with pytest.raises(InputError, match=r"models_info\.json: object 7 is not described"):
        benchmark.predict(benchmark.units[0])


@pytest.fixture
def frames(tmp_path):
    return write_frames(tmp_path / "frames", intrinsics=True)


def scene_config() -> ScenePoseConfig:
    return ScenePoseConfig(num_reference_frames=2, reference_step=1, database=OnboardingConfig(stride_px=8, num_words=32, num_rolls=0))


def test_perfect_features_find_the_camera_in_a_known_scene(frames, tmp_path):
    benchmark = ScenePose(frames, [scene_oracle(colour_scene(), stride_px=4), RandomFeatures(stride_px=4)], scene_config())
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run", benchmark.header)
    by_name = {row["object_name"]: row for row in score.rows}
    assert by_name["oracle"]["recall_1cm_1deg"] == 1.0
    assert by_name["random"]["recall_5cm_5deg"] == 0.0


def test_two_extractors_of_one_name_are_refused(frames):
    with pytest.raises(ConfigError, match="names must differ"):
        ScenePose(frames, [RandomFeatures(), RandomFeatures()], scene_config())
