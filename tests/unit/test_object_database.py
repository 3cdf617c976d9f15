import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support.textured_plane import random_texture, reference_views, view_pose

from perception.core.errors import ConfigError, InputError
from perception.core.types import Frame, ReferenceView
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.object_database import ObjectDatabase, checked_object_name
from perception.pipelines.onboarding import OnboardingConfig, build_database, symmetry_transforms

POSES = [view_pose(azimuth, 5, 0.5) for azimuth in (-24, -16, -8, 0, 8, 16, 24)]


@pytest.fixture(scope="module")
def features():
    return DenseFeatures(DenseFeaturesConfig())


@pytest.fixture(scope="module")
def database(features):
    return build_database("plate", reference_views(random_texture(3), POSES), features, OnboardingConfig(), source="test")


def test_points_lie_on_the_surface_and_belong_to_their_view(database):
    assert database.num_views == len(POSES)
    assert database.descriptors.dtype == torch.float16
    assert database.points[:, 2].abs().max() < 1e-4
    assert (database.points[:, :2].abs() <= 0.2 + 1e-3).all()
    assert torch.allclose(database.camera_from_object[2], torch.from_numpy(POSES[2]))
    assert torch.allclose(database.descriptors.float().norm(dim=1), torch.ones(len(database.descriptors)), atol=2e-3)


def test_normals_point_to_the_camera(database):
    normals = database.normals.float()
    known = normals.norm(dim=1) > 0.5
    assert known.float().mean() > 0.9
    assert (normals[known][:, 2] < -0.98).float().mean() > 0.95


def test_saved_file_is_read_back_equal(database, tmp_path):
    path = database.save(tmp_path / "folder" / "plate.safetensors")
    again = ObjectDatabase.load(path)
    assert again.name == "plate"
    assert again.extractor == database.extractor
    assert again.provenance["source"] == "test"
    assert torch.equal(again.descriptors, database.descriptors)
    assert torch.equal(again.view_words, database.view_words)
    assert [item.name for item in path.parent.iterdir()] == ["plate.safetensors"]


def test_damaged_and_foreign_files_are_refused(database, tmp_path):
    path = database.save(tmp_path / "plate.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(content)
    with pytest.raises(InputError, match="does not match its recorded hash"):
        ObjectDatabase.load(flipped)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        ObjectDatabase.load(truncated)
    with pytest.raises(InputError, match="no such file"):
        ObjectDatabase.load(tmp_path / "missing.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="no object database"):
        ObjectDatabase.load(tmp_path / "weights.safetensors")


def test_size_cap_thins_evenly(features):
    small = build_database("plate", reference_views(random_texture(3), POSES), features, OnboardingConfig(max_descriptors=700))
    assert 650 <= len(small.points) <= 700
    for view in range(small.num_views):
        points = small.points[small.view_rows(view)]
        assert torch.pdist(points).min() > 0.01


def test_clip_without_depth_is_triangulated(features, database):
    views = reference_views(random_texture(3), POSES, with_depth=False)
    tracked = build_database("plate", views, features, OnboardingConfig())
    assert len(tracked.points) > 1000
    distance = tracked.points[:, 2].abs()
    assert distance.median() < 0.004
    assert (distance < 0.02).float().mean() > 0.9


def test_views_that_show_nothing_are_an_error(features):
    view = reference_views(random_texture(3), POSES[:1])[0]
    frame = Frame(view.frame.image, 1, view.frame.camera, depth_m=np.zeros((240, 320), np.float32))
    with pytest.raises(InputError, match="no surface point"):
        build_database("plate", [ReferenceView(frame, POSES[0])], features, OnboardingConfig())
    with pytest.raises(InputError, match="no surface point"):
        build_database("plate", [], features, OnboardingConfig())


def test_progress_is_reported_for_each_view(features):
    calls: list[tuple[int, int]] = []
    build_database(
        "plate", reference_views(random_texture(3), POSES[:2]), features, OnboardingConfig(), progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize("name", ["", "two words", "1st", "a/b", "ä"])
def test_names_that_cannot_be_topics_are_refused(name):
    with pytest.raises(InputError, match="object name"):
        checked_object_name(name)


def test_symmetries_of_the_object():
    assert symmetry_transforms(OnboardingConfig()).shape == (1, 4, 4)
    half_turn = symmetry_transforms(OnboardingConfig(symmetry_axis=(0.0, 0.0, 2.0), symmetry_order=2))
    assert np.allclose(half_turn, [np.eye(4), np.diag([-1, -1, 1, 1])])
    assert len(symmetry_transforms(OnboardingConfig(symmetry_axis=(0.0, 1.0, 0.0)))) == 72
    with pytest.raises(ConfigError, match="three numbers"):
        symmetry_transforms(OnboardingConfig(symmetry_axis=(0.0, 0.0)))
