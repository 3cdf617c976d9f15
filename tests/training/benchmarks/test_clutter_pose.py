import csv
from functools import cache

import cv2
import numpy as np
import pytest
from tests.support.oracle_features import OracleFeatures, RandomFeatures

from perception.core.errors import ConfigError, InputError
from perception.core.types import Camera, Frame, ReferenceView
from perception.geometry import se3
from perception.geometry.camera import depth_to_points, project
from perception.io import meshes as mesh_files
from perception.io.images import write_image
from perception.pipelines.onboarding import OnboardingConfig
from perception.rendering.primitives import box, cylinder
from perception.rendering.procedural_textures import printed
from perception.rendering.raycast import render
from perception.rendering.reference_sources import ReferenceConfig, open_references
from perception.rendering.viewpoints import cameras_around, look_at
from perception_training.benchmarks.clutter_layers import Layer, hide_share
from perception_training.benchmarks.clutter_pose import ALL, ClutterPose, ClutterPoseConfig
from perception_training.benchmarks.clutter_scenes import ClutterConfig, ClutterScenes, find_meshes, find_photographs
from perception_training.benchmarks.clutter_symmetries import texture_symmetries
from perception_training.benchmarks.pose_methods import open_extractors
from perception_training.benchmarks.running import predict_all, score_folder
from perception_training.benchmarks.sift_keypoints import SiftKeypoints

CLUTTER = ClutterConfig(num_queries=2, size_px=(60.0, 80.0), num_others=1, width=160, height=120, focal_px=150.0, max_noise=2.0, min_jpeg_quality=90)
REFERENCE = ReferenceConfig(num_viewpoints=12, render_size_px=96, render_focal_px=105.0, render_supersampling=1)
CONFIG = ClutterPoseConfig(
    objects=("carton",),
    clutter=CLUTTER,
    num_pictures=1,
    reference=REFERENCE,
    database=OnboardingConfig(num_words=32, max_descriptors=4_000, num_rolls=0),
)


@cache
def carton() -> mesh_files.Mesh:
    rng = np.random.default_rng(0)
    return box((0.12, 0.08, 0.16), [printed(rng, 128, 128, (200, 180, 60)) for _ in range(6)], "carton")


@cache
def tin(label_grey: int | None = None) -> mesh_files.Mesh:
    lid = np.full((32, 128, 3), 90, np.uint8)
    label = printed(np.random.default_rng(1), 64, 128, (180, 30, 30)) if label_grey is None else np.full((64, 128, 3), label_grey, np.uint8)
    return cylinder(0.04, 0.1, label, lid, "tin", num_segments=72)


@pytest.fixture
def folders(tmp_path):
    for mesh in (carton(), tin()):
        mesh_files.save(mesh, tmp_path / "meshes" / mesh.name / "textured.obj")
    rng = np.random.default_rng(2)
    for index in range(2):
        picture = cv2.resize(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        write_image(tmp_path / "photographs" / f"{index}.png", picture)
    return tmp_path / "meshes", tmp_path / "photographs"


def scenes(folders, config=CLUTTER) -> ClutterScenes:
    return ClutterScenes(find_meshes(folders[0]), find_photographs(folders[1]), config)


def oracle(folders) -> OracleFeatures:
    """Knows the pictures and the renders of the carton, in the frame of the carton."""
    made, known = scenes(folders), []
    for number in range(CLUTTER.num_queries):
        query = made.query("carton", number)
        points = render(made.mesh("carton"), query.camera, query.camera_from_object).object_points.astype(np.float64)
        known.append((query.image, np.where(query.visible[..., None], points, np.nan)))
    for view in open_references(str(find_meshes(folders[0])["carton"]), REFERENCE):
        points = se3.transform_points(se3.inverse(view.camera_from_object), depth_to_points(view.frame.depth_m.astype(np.float64), view.frame.camera))
        known.append((view.frame.image, points))
    return OracleFeatures(known, scale=0.02, stride_px=2)


def test_perfect_features_find_the_object_in_clutter_and_random_ones_do_not(folders, tmp_path):
    benchmark = ClutterPose(*folders, [oracle(folders), RandomFeatures(stride_px=4)], CONFIG)
    predict_all(benchmark, tmp_path / "run")
    score = score_folder(tmp_path / "run", benchmark.header)
    rows = {(row["method"], row["object"]): row for row in score.rows}
    assert rows["oracle", "carton"]["recall_5cm_5deg"] == 1.0
    assert rows["oracle", "carton"]["add_share"] == 1.0
    assert rows["random", ALL]["recall_5cm_5deg"] == 0.0
    assert rows["random", ALL]["num_queries"] == 2
    assert score.headline == "oracle: recall_5cm_5deg"
    sheet = cv2.imdecode(np.frombuffer(score.figures["queries.png"], np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (240, 2 * 2 * 320, 3)
    with (tmp_path / "run" / "score.csv").open() as file:
        assert [row["object"] for row in csv.DictReader(file)] == ["carton", ALL] * 2


def test_pictures_depend_on_seed_object_and_number_alone(folders):
    first, again = scenes(folders), scenes(folders)
    again.query("tin", 0)
    for number in (1, 0):
        one, other = first.query("carton", number), again.query("carton", number)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.camera_from_object, other.camera_from_object)
    assert not np.array_equal(first.query("carton", 0).camera_from_object, first.query("carton", 1).camera_from_object)


def test_the_truth_of_a_picture_reprojects(folders):
    made = scenes(folders)
    for number in range(3):
        query = made.query("carton", number)
        seen = render(made.mesh("carton"), query.camera, query.camera_from_object).mask
        assert (seen & query.outline).sum() > 0.95 * (seen | query.outline).sum()
        pixels = project(se3.transform_points(query.camera_from_object, made.mesh("carton").vertices), query.camera)
        assert np.ptp(pixels, axis=0).max() == pytest.approx(query.size_px, abs=2.5)
        assert CLUTTER.size_px[0] - 2 <= query.size_px <= CLUTTER.size_px[1] + 2
        assert query.occlusion == pytest.approx(1 - query.visible.sum() / query.outline.sum())
        assert query.occlusion <= CLUTTER.max_occlusion


def test_occlusion_spreads_over_its_range(folders):
    made = scenes(folders)
    hidden = [made.query(name, number).occlusion for name in ("carton", "tin") for number in range(6)]
    assert min(hidden) < 0.12
    assert 0.33 < max(hidden) <= 0.45


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.45])
def test_occluders_hide_the_share_that_was_asked_for(share):
    rows, cols = np.mgrid[:120, :160]
    disc = (rows - 60) ** 2 + (cols - 70) ** 2 < 30**2
    layer = Layer(np.zeros((40, 40, 3), np.float32), np.ones((40, 40), np.float32))
    placed = hide_share(disc, share, lambda: layer, np.random.default_rng(0), 6, 0.02)
    hidden = np.logical_or.reduce([item.mask(120, 160) for item in placed]) if placed else np.zeros_like(disc)
    assert share - 0.02 <= (hidden & disc).sum() / disc.sum() <= share


def test_symmetries_are_seen_in_the_texture():
    assert len(texture_symmetries(carton())) == 1
    assert len(texture_symmetries(tin())) == 1
    plain = texture_symmetries(tin(label_grey=120))
    np.testing.assert_allclose(plain[0], np.eye(4))
    about_axis = np.abs(plain[:, 2, 2] - 1) < 1e-6
    assert about_axis.sum() == 72


def test_a_folder_without_meshes_or_an_unknown_object_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="photographs: holds no meshes"):
        find_meshes(folders[1])
    with pytest.raises(ConfigError, match="'spoon': unknown; known: carton, tin"):
        ClutterPose(*folders, [RandomFeatures()], ClutterPoseConfig(objects=("spoon",)))
    with pytest.raises(ConfigError, match="two sizes"):
        ClutterConfig(size_px=(100.0, 60.0))


CAMERA = Camera(240, 200, 260.0, 260.0, 119.5, 99.5)


def carton_view(camera_from_object: np.ndarray, background=(90, 90, 90)) -> ReferenceView:
    view = render(carton(), CAMERA, camera_from_object, background=background, supersampling=2)
    return ReferenceView(Frame(view.image, 1, CAMERA, depth_m=view.depth_m, mask=view.mask), camera_from_object)


def test_sift_keypoints_find_a_textured_object_and_none_in_a_grey_picture():
    views = [carton_view(pose) for pose in cameras_around(np.zeros(3), 0.35, 12)]
    known = SiftKeypoints().learn("carton", views)
    truth = look_at(np.array([0.22, -0.24, 0.1]), np.array([0.01, 0.0, 0.01]))
    (found,) = known.step(Frame(carton_view(truth).frame.image, 2, CAMERA)).estimates
    assert np.degrees(np.linalg.norm(se3.log(found.camera_from_object @ np.linalg.inv(truth))[3:])) < 2.0
    assert np.linalg.norm(found.camera_from_object[:3, 3] - truth[:3, 3]) < 0.01
    np.testing.assert_allclose(found.bounds_object, carton().bounds, atol=0.02)
    assert not known.step(Frame(np.full((200, 240, 3), 90, np.uint8), 3, CAMERA)).estimates


def test_sift_keypoints_say_what_they_lack():
    view = carton_view(cameras_around(np.zeros(3), 0.35, 1)[0])
    with pytest.raises(InputError, match="no depth or no camera"):
        SiftKeypoints().learn("carton", [ReferenceView(Frame(view.frame.image, 1, CAMERA), view.camera_from_object)])
    grey = Frame(np.full((200, 240, 3), 90, np.uint8), 1, CAMERA, depth_m=np.ones((200, 240), np.float32))
    with pytest.raises(InputError, match="no keypoint in 1 reference view"):
        SiftKeypoints().learn("wall", [ReferenceView(grey, np.eye(4))])


def test_methods_are_read_from_words():
    dense, sparse = open_extractors(["dense_sift,sift_size_px=16", "sift_keypoints,max_ratio=0.7,label=SIFT"])
    assert isinstance(sparse, SiftKeypoints)
    assert (sparse.label, sparse.config.max_ratio) == ("SIFT", 0.7)
    assert dense.label == "dense_sift(size=16)"
    with pytest.raises(ConfigError, match="key=value"):
        open_extractors(["sift_keypoints,0.7"])
    with pytest.raises(ConfigError, match="none is given"):
        open_extractors([])
