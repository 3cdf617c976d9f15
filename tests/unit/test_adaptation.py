"""Adapting features to one object: what it changes, when it is refused, and that a database is only used with the adapter it was made with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.closeness import assert_close
from tests.support.textured_plane import CAMERA, random_texture, reference_views, render_plane, view_pose

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.core.types import Frame, ReferenceView
from perception.models.adapter import Adapter, MapAdapter, read_adapter, write_adapter
from perception.pipelines.adaptation import AdaptationConfig, adapt, build_adapted_database
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.object_database import ObjectDatabase, adapter_path
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig

FEATURES = DenseFeaturesConfig(extractor="tiny_nano", device="cpu", precision="float32")
POSES = [view_pose(azimuth, elevation, 0.6, azimuth / 2) for azimuth, elevation in ((-40, 0), (-25, 15), (-10, -10), (5, 20), (20, 0), (35, -15))]
ADAPTATION = AdaptationConfig(num_points=800, num_queries=400, learning_rate=3e-3)
NUM_ITERATIONS = 30
ONBOARDING = OnboardingConfig(num_words=16, max_descriptors=6000)


@pytest.fixture(scope="module")
def features() -> DenseFeatures:
    return DenseFeatures(FEATURES)


def striped(image: np.ndarray, number: int) -> np.ndarray:
    """With stripes that belong to the camera and not to the object, elsewhere in each view: what features can learn not to look at."""
    stripes = 45 * np.sin(2 * np.pi * np.arange(CAMERA.width) / 8 + 2 * number)
    return np.clip(0.6 * image + 50 + stripes[None, :, None], 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def views() -> list[ReferenceView]:
    plain = reference_views(random_texture(3), POSES)
    return [
        ReferenceView(dataclasses.replace(view.frame, image=striped(view.frame.image, number)), view.camera_from_object)
        for number, view in enumerate(plain)
    ]


@pytest.fixture(scope="module")
def database(views: list[ReferenceView], features: DenseFeatures) -> ObjectDatabase:
    return build_adapted_database("plate", views, features, NUM_ITERATIONS, ADAPTATION, ONBOARDING)


def test_adapting_lowers_the_loss_and_matches_views_held_back_better(database: ObjectDatabase) -> None:
    record = database.provenance["adaptation"]
    assert record["accepted"]
    assert record["losses"][1] < record["losses"][0]
    assert record["after"]["share_within"] > record["before"]["share_within"] + 0.03
    assert (record["iterations"], record["num_views"], record["num_held_back"]) == (NUM_ITERATIONS, 5, 1)
    assert "adapted in 30 iterations" in record["summary"]
    assert "matched within 8 px" in record["summary"]


def test_the_descriptors_are_those_of_the_adapted_map(views: list[ReferenceView], features: DenseFeatures, database: ObjectDatabase) -> None:
    plain = build_database("plate", views, features, ONBOARDING)
    assert plain.adapter is None
    assert database.extractor == plain.extractor == features.name
    first = database.view_rows(0)
    assert_close(database.points[first], plain.points[first])
    assert (database.descriptors[first].float() - plain.descriptors[first].float()).abs().max() > 0.01
    shared = features.step(views[0].frame)
    assert plain.adapted(shared) is shared
    assert database.adapted(shared).extractor != shared.extractor


def test_an_adapter_that_does_not_help_is_refused_and_the_database_is_as_without(views: list[ReferenceView], features: DenseFeatures) -> None:
    spoilt = dataclasses.replace(ADAPTATION, learning_rate=1.0)
    database = build_adapted_database("plate", views, features, 2, spoilt, ONBOARDING)
    plain = build_database("plate", views, features, ONBOARDING)
    record = database.provenance["adaptation"]
    assert not record["accepted"]
    assert "adapter refused, the database is built without" in record["summary"]
    assert database.adapter is None
    assert torch.equal(database.descriptors, plain.descriptors)


def test_views_without_depth_are_triangulated_and_adapted_to(features: DenseFeatures) -> None:
    poses = [view_pose(azimuth, 0, 0.5) for azimuth in (-18, -12, -6, 0, 6, 12)]
    sift_like = reference_views(random_texture(3), poses, with_depth=False)
    found = adapt(sift_like, features, 1, dataclasses.replace(ADAPTATION, min_gain=1.0), ONBOARDING)
    assert found.adapter is None
    assert found.num_points > 50


def test_file_and_adapter_are_read_back_and_find_the_object(database: ObjectDatabase, features: DenseFeatures, tmp_path: Path) -> None:
    path = database.save(tmp_path / "plate.safetensors")
    beside = adapter_path(path)
    assert beside == tmp_path / "plate.adapter.safetensors"
    assert beside.stat().st_size < 30_000
    again = ObjectDatabase.load(path)
    frame = Frame(striped(render_plane(random_texture(3), POSES[1]).image, 9), 1, CAMERA)
    shared = features.step(frame)
    assert_close(again.adapted(shared).descriptors, database.adapted(shared).descriptors)
    pipeline = OneShotPose(OneShotPoseConfig(features=FEATURES, databases=(str(path),), min_score=0.0), features)
    pipeline.add_object(dataclasses.replace(database, name="other", adapter=None))
    result = pipeline.step(frame)
    assert result.features is not None
    assert result.features.extractor == features.name  # others get the shared map as it is
    (estimate,) = [estimate for estimate in result.estimates if estimate.object_name == "plate"]
    assert np.linalg.norm(estimate.camera_from_object[:3, 3] - POSES[1][:3, 3]) < 0.05
    matched = {item.object_name: item.num_inliers for item in (*result.estimates, *result.misses)}
    assert matched["plate"] > matched["other"]  # its descriptors were adapted, so that plain ones of the frame do not fit them


def test_a_missing_or_exchanged_adapter_is_refused(database: ObjectDatabase, tmp_path: Path) -> None:
    path = database.save(tmp_path / "plate.safetensors")
    other = Adapter({}, {name: value + 1 for name, value in database.adapter.convs.items()}, database.adapter.extractor, True)
    write_adapter(adapter_path(path), other)
    with pytest.raises(InputError, match=r"plate\.adapter\.safetensors is not the one it was made with"):
        ObjectDatabase.load(path)
    adapter_path(path).unlink()
    with pytest.raises(InputError, match=r"plate\.adapter\.safetensors, which is not beside it"):
        ObjectDatabase.load(path)
    with pytest.raises(InputError, match="its adapter for 'nano': must be the same"):
        dataclasses.replace(database, adapter=dataclasses.replace(database.adapter, extractor="nano"))


def test_an_extractor_with_the_adapter_of_an_object_gives_the_adapted_map(
    database: ObjectDatabase, views: list[ReferenceView], features: DenseFeatures, tmp_path: Path
) -> None:
    path = adapter_path(database.save(tmp_path / "plate.safetensors"))
    adapted = DenseFeatures(dataclasses.replace(FEATURES, adapter=str(path)))
    found, expected = adapted.step(views[0].frame), database.adapted(features.step(views[0].frame))
    similarity = (found.descriptors * expected.descriptors).sum(0)[1:-1, 1:-1]  # the border of the network's own map is padding
    assert similarity.min() > 0.99  # what the object's own adapter adds is computed in bfloat16 where the processor has it
    assert adapted.name.startswith("tiny_nano+plate.adapter.safetensors:")
    assert read_adapter(path).unit_input
    with pytest.raises(InputError, match="was onboarded with the extractor 'tiny_nano'"):
        OneShotPose(OneShotPoseConfig(), adapted).add_object(database)


def test_adapters_that_do_not_fit_are_named(tmp_path: Path) -> None:
    convs = {"0.weight": torch.zeros(8, 8, 3, 3), "0.bias": torch.zeros(8)}
    path = write_adapter(tmp_path / "a.safetensors", Adapter({}, convs, "alike_n", True))
    with pytest.raises(WeightsError, match="was made for alike_n; extractor is tiny_nano"):
        DenseFeatures(dataclasses.replace(FEATURES, adapter=str(path)))
    with pytest.raises(ConfigError, match="dense_sift has no network that could take it"):
        DenseFeatures(DenseFeaturesConfig(extractor="dense_sift", adapter=str(path)))
    with pytest.raises(WeightsError, match="convolutions of its descriptors alone"):
        MapAdapter(Adapter({"layer": (torch.zeros(1, 2), torch.zeros(2, 1))}, convs), 8, "here")
    with pytest.raises(WeightsError, match="for descriptors of length 16"):
        MapAdapter(Adapter({}, convs, unit_input=True), 16, "here")


def test_an_adapter_of_the_identity_changes_nothing_and_keeps_empty_cells(features: DenseFeatures, views: list[ReferenceView]) -> None:
    kernel = torch.nn.init.dirac_(torch.empty(features.dim, features.dim, 3, 3))
    adapter = MapAdapter(Adapter({}, {"0.weight": kernel, "0.bias": torch.ones(features.dim) * 1e-4}, unit_input=True), features.dim, "here")
    shared = features.step(views[0].frame)
    emptied = dataclasses.replace(shared, descriptors=shared.descriptors.clone())
    emptied.descriptors[:, 3, 4] = 0
    found = adapter.apply(emptied, "adapted").descriptors
    assert_close(found, emptied.descriptors, atol=1e-2)
    assert not found[:, 3, 4].any()


def test_what_cannot_be_adapted_says_why(views: list[ReferenceView], features: DenseFeatures) -> None:
    with pytest.raises(ConfigError, match=r"dense_sift.* has no network that could be adapted; such are alike_t, alike_n, nano"):
        adapt(views, DenseFeatures(DenseFeaturesConfig(extractor="dense_sift")), 5, ADAPTATION, ONBOARDING)
    with pytest.raises(ConfigError, match="adapt = -1: must be a number of iterations"):
        adapt(views, features, -1, ADAPTATION, ONBOARDING)
    with pytest.raises(InputError, match=r"3 reference view\(s\) show the object: must be at least 4"):
        adapt(views[:3], features, 5, ADAPTATION, ONBOARDING)
    apart = [ReferenceView(view.frame, view.camera_from_object @ _moved(10.0 * number)) for number, view in enumerate(views)]
    with pytest.raises(InputError, match="no two of 5 reference views show the same part"):
        adapt(apart, features, 5, ADAPTATION, ONBOARDING)
    lost = [ReferenceView(view.frame, np.full((4, 4), np.nan)) for view in views]
    with pytest.raises(InputError, match=r"0 reference view\(s\) show the object"):
        adapt(lost, features, 5, ADAPTATION, ONBOARDING)


def _moved(offset_m: float) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3] = offset_m
    return pose


def test_progress_counts_views_and_then_iterations(views: list[ReferenceView], features: DenseFeatures) -> None:
    calls: list[tuple[int, int]] = []
    adapt(views, features, 2, ADAPTATION, ONBOARDING, lambda done, total: calls.append((done, total)))
    assert calls == [*((number, 6) for number in range(1, 7)), (1, 2), (2, 2)]
