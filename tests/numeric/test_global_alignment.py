"""Global alignment on scenes whose truth is known."""

import itertools

import pytest
import torch
from tests.support.closeness import assert_close
from tests.support.point_map_pairs import wavy_scene

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.global_alignment import AlignmentConfig, KnownCameras, align, alignment_loss, pair_observations, pair_scene, refinement
from perception.geometry.global_alignment.parameters import parameters_of_scene, scene_of_parameters
from perception.geometry.global_alignment.problem import Problem
from perception.geometry.global_alignment.refinement import refine
from perception.geometry.global_alignment.spanning_tree import first_scene, maximum_spanning_tree, pair_scores
from perception.geometry.scene_graph import image_pairs
from perception.geometry.so3 import rotation_angle

BOTH_ROUNDS = pytest.mark.parametrize("most_joint_pairs", [0, 1000], ids=["in turns", "jointly"])


def camera_errors(found, truth):
    """Largest distance of the centres, in the truth's unit, and largest angle (rad), both seen from the first camera and with the best scale."""
    found, truth = (se3.inverse(poses[0]) @ poses for poses in (found, truth))
    centres, wanted = found[:, :3, 3], truth[:, :3, 3]
    scale = (centres * wanted).sum() / (centres**2).sum()
    angle = rotation_angle(found[:, :3, :3].mT @ truth[:, :3, :3])
    return float((scale * centres - wanted).norm(dim=1).max()), float(angle.max())


def loosened(scene, amount=0.05, seed=0):
    """Cameras, pairs, focal lengths and depths of a scene moved by random amounts."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return amount * torch.randn(*shape, generator=generator, dtype=torch.float64)

    twists = noise(len(scene.focal_px), 6), noise(len(scene.world_from_pair), 6)
    return type(scene)(
        scene.world_from_camera @ se3.exp(twists[0]),
        scene.focal_px * noise(len(scene.focal_px)).exp(),
        scene.principal_px,
        scene.depth * noise(*scene.depth.shape).exp(),
        scene.world_from_pair @ se3.exp(twists[1]),
    )


@pytest.mark.parametrize("graph", ["complete", "swin-1-noncyclic", "oneref-1"])
def test_an_exact_scene_is_found_exactly(graph):
    truth = wavy_scene(4, image_pairs(4, graph))
    scene = align(truth.observations)
    distance, angle = camera_errors(scene.world_from_camera, truth.world_from_camera)
    assert distance < 1e-5
    assert angle < 1e-5
    assert scene.loss <= scene.start_loss < 1e-6
    assert_close(scene.focal_px, truth.focal_px, rtol=1e-5)
    ratio = torch.stack(scene.depth) / truth.depth
    assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4)


def test_pairs_one_way_round_are_enough():
    truth = wavy_scene(3, [(0, 1), (0, 2)])
    scene = align(truth.observations)
    assert camera_errors(scene.world_from_camera, truth.world_from_camera)[0] < 2e-2
    assert bool(((scene.focal_px / truth.focal_px).log().abs() < 0.1).all())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_noisy_scene_gets_better_in_loss_and_in_truth(seed):
    truth = wavy_scene(5, image_pairs(5), noise=0.02, seed=seed)
    known = KnownCameras().with_principal_points(truth.observations)
    start = first_scene(truth.observations, known, 0.5)
    scene = align(truth.observations)
    assert scene.loss < 0.6 * scene.start_loss
    found, before = (camera_errors(poses, truth.world_from_camera) for poses in (scene.world_from_camera, start.world_from_camera))
    assert found[0] < before[0]
    assert found[1] < before[1]


@BOTH_ROUNDS
def test_no_round_raises_the_loss_even_from_a_bad_start(most_joint_pairs, monkeypatch):
    monkeypatch.setattr(refinement, "MOST_JOINT_PAIRS", most_joint_pairs)
    truth = wavy_scene(4, image_pairs(4), noise=0.02)
    known = KnownCameras().with_principal_points(truth.observations)
    scene = loosened(first_scene(truth.observations, known, 0.5))
    problem = Problem.of(truth.observations, moves_cameras=True, moves_focals=True, base_scale=0.5)
    losses = []
    for _ in range(12):
        losses.append(float(problem.fit(scene).loss))
        scene, num_rounds = refine(problem, scene, max_rounds=1, tolerance=0.0)
        assert num_rounds == 1
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.3 * losses[0]


@BOTH_ROUNDS
def test_it_ends_where_gradients_of_the_objective_vanish(most_joint_pairs, monkeypatch):
    monkeypatch.setattr(refinement, "MOST_JOINT_PAIRS", most_joint_pairs)
    truth = wavy_scene(3, image_pairs(3), noise=0.02)
    known = KnownCameras().with_principal_points(truth.observations)
    problem = Problem.of(truth.observations, moves_cameras=True, moves_focals=True, base_scale=0.5)
    start = first_scene(truth.observations, known, 0.5)
    scene, _ = refine(problem, start, max_rounds=200, tolerance=1e-9)
    norms = []
    for state in (start, scene):
        parameters = parameters_of_scene(state)
        trained = [parameters.pair_poses, parameters.log_depth, parameters.camera_poses, parameters.slow_log_focal]
        for value in trained:
            value.requires_grad_()
        gradients = torch.autograd.grad(alignment_loss(truth.observations, scene_of_parameters(parameters, state.principal_px)), trained)
        norms.append([float(gradient.abs().max()) for gradient in (gradients[0], gradients[2], gradients[3])])
    assert all(after < 0.02 * before for before, after in zip(*norms, strict=True)), norms


def test_pairs_in_turns_end_where_all_at_once_do_and_all_at_once_takes_few_rounds(monkeypatch):
    truth = wavy_scene(8, image_pairs(8, "swin-2-noncyclic"), noise=0.02)
    jointly = align(truth.observations)
    monkeypatch.setattr(refinement, "MOST_JOINT_PAIRS", 0)
    in_turns = align(truth.observations, config=AlignmentConfig(coarse_rounds=200, fine_rounds=100, tolerance=1e-5))
    assert jointly.num_rounds <= 20
    assert jointly.loss <= in_turns.loss * (1 + 1e-4)
    assert in_turns.loss <= jointly.loss * (1 + 3e-3)


@BOTH_ROUNDS
def test_what_is_preset_stays_in_either_kind_of_rounds(most_joint_pairs, monkeypatch):
    monkeypatch.setattr(refinement, "MOST_JOINT_PAIRS", most_joint_pairs)
    truth = wavy_scene(4, image_pairs(4), noise=0.01)
    for known in (KnownCameras(truth.world_from_camera, truth.focal_px), KnownCameras(truth.world_from_camera), KnownCameras(None, truth.focal_px)):
        scene = align(truth.observations, known)
        assert scene.loss < scene.start_loss
        assert known.world_from_camera is None or torch.equal(scene.world_from_camera, truth.world_from_camera)
        assert known.focal_px is None or torch.equal(scene.focal_px, truth.focal_px)


def test_few_pixels_do_most_of_the_work_and_every_pixel_gets_its_depth():
    truth = wavy_scene(3, image_pairs(3), size=(75, 100), noise=0.01)
    full = align(truth.observations, config=AlignmentConfig(coarse_pixels=100_000, fine_pixels=100_000))
    thin = align(truth.observations, config=AlignmentConfig(coarse_pixels=200, fine_pixels=600))
    assert [tuple(depth.shape) for depth in thin.depth] == [(75, 100)] * 3
    assert thin.loss < 1.1 * full.loss < 1.1 * full.start_loss
    assert camera_errors(thin.world_from_camera, full.world_from_camera)[1] < 0.01
    exact = wavy_scene(3, image_pairs(3), size=(75, 100))
    scene = align(exact.observations, config=AlignmentConfig(coarse_pixels=200, fine_pixels=600))
    assert scene.loss < 1e-6
    assert_close(scene.focal_px, exact.focal_px, rtol=1e-5)


def test_preset_poses_and_focal_lengths_stay_and_set_the_scale():
    truth = wavy_scene(4, image_pairs(4), noise=0.01)
    scene = align(truth.observations, KnownCameras(truth.world_from_camera, truth.focal_px))
    assert torch.equal(scene.world_from_camera, truth.world_from_camera)
    assert torch.equal(scene.focal_px, truth.focal_px)
    assert scene.loss < scene.start_loss
    assert float((torch.stack(scene.depth) / truth.depth).log().abs().median()) < 0.02


def test_preset_poses_alone_leave_focal_lengths_to_be_found():
    truth = wavy_scene(4, image_pairs(4))
    scene = align(truth.observations, KnownCameras(truth.world_from_camera))
    assert torch.equal(scene.world_from_camera, truth.world_from_camera)
    assert_close(scene.focal_px, truth.focal_px, rtol=1e-4)
    assert_close(torch.stack(scene.depth).double(), truth.depth, rtol=1e-3)


def test_preset_principal_points_are_used():
    truth = wavy_scene(3, image_pairs(3))
    middle = torch.tensor([16.0, 12.0])
    scene = align(truth.observations, KnownCameras(principal_px=middle.expand(3, 2)))
    assert_close(scene.focal_px, truth.focal_px, rtol=1e-5)
    shifted = align(truth.observations, KnownCameras(principal_px=(middle + 4).expand(3, 2)))
    assert shifted.loss > 100 * scene.loss


def test_masked_pixels_do_not_count():
    edges = image_pairs(3)
    masks = [torch.ones(24, 32, dtype=torch.bool) for _ in range(3)]
    masks[1][4:14, 5:20] = False
    truth = wavy_scene(3, edges)
    points1, confidence1, points2, confidence2 = (part.clone() for part in truth.maps)
    generator = torch.Generator().manual_seed(1)
    for number, (i, j) in enumerate(edges):  # what moves is somewhere else in every pair
        moved = torch.randn(3, generator=generator)
        if i == 1:
            points1[number, 4:14, 5:20] += moved
        if j == 1:
            points2[number, 4:14, 5:20] += moved
    spoiled = pair_observations(edges, points1, confidence1, points2, confidence2)
    masked = pair_observations(edges, points1, confidence1, points2, confidence2, masks)
    scene = align(masked)
    assert scene.loss < 1e-6
    assert camera_errors(scene.world_from_camera, truth.world_from_camera)[0] < 1e-5
    assert align(spoiled).loss > 1e-3
    assert float(scene.confidence[1][10, 10]) <= 1


def test_images_of_different_sizes_are_one_scene():
    truth = wavy_scene(3, image_pairs(3))
    points1, confidence1, points2, confidence2 = (list(part) for part in truth.maps)
    for number, (i, j) in enumerate(truth.edges):  # image 2 loses its last rows and columns; its principal point stays
        if i == 2:
            points1[number], confidence1[number] = points1[number][:20, :28], confidence1[number][:20, :28]
        if j == 2:
            points2[number], confidence2[number] = points2[number][:20, :28], confidence2[number][:20, :28]
    known = KnownCameras(principal_px=torch.tensor([16.0, 12.0]).expand(3, 2))
    scene = align(pair_observations(truth.edges, points1, confidence1, points2, confidence2), known)
    assert [tuple(depth.shape) for depth in scene.depth] == [(24, 32), (24, 32), (20, 28)]
    assert camera_errors(scene.world_from_camera, truth.world_from_camera)[0] < 1e-5


def test_a_pair_is_shown_as_the_surer_of_both_directions_has_it():
    truth = wavy_scene(2, image_pairs(2), noise=0.005)
    scene = pair_scene(truth.observations)
    best = int(pair_scores(truth.observations).argmax())
    first, second = truth.edges[best]
    assert_close(scene.world_from_camera[first], torch.eye(4, dtype=torch.float64))
    assert_close(scene.depth[first], truth.maps[0][best][..., 2])
    relative = se3.inverse(truth.world_from_camera[first]) @ truth.world_from_camera[second]
    assert float(rotation_angle(scene.world_from_camera[second][:3, :3].mT @ relative[:3, :3])) < 0.03
    with pytest.raises(InputError, match="3 images; must be two"):
        pair_scene(wavy_scene(3, image_pairs(3)).observations)


def test_points_of_the_scene_are_where_the_pairs_say():
    truth = wavy_scene(3, image_pairs(3))
    scene = align(truth.observations)
    for number, (i, _) in enumerate(truth.edges):
        moved = se3.transform_points(scene.world_from_pair[number], truth.maps[0][number].double().flatten(0, 1))
        assert_close(scene.points()[i].flatten(0, 1).double(), moved, rtol=1e-4, atol=1e-5)


def test_parameters_give_their_scene_back():
    truth = wavy_scene(3, image_pairs(3))
    scene = first_scene(truth.observations, KnownCameras().with_principal_points(truth.observations), 0.5)
    again = scene_of_parameters(parameters_of_scene(scene), scene.principal_px)
    for name in ("world_from_camera", "focal_px", "depth", "world_from_pair"):
        assert_close(getattr(again, name), getattr(scene, name), rtol=1e-6, atol=1e-7)


def test_the_tree_takes_the_surest_pairs_that_reach_all_images():
    truth = wavy_scene(4, image_pairs(4))
    scores = pair_scores(truth.observations)
    tree = maximum_spanning_tree(truth.observations)
    assert len(tree) == 3
    assert tree[0] == int(scores.argmax())
    done = set(truth.edges[tree[0]])
    for number in tree[1:]:
        assert len(done & set(truth.edges[number])) == 1
        done |= set(truth.edges[number])
    assert done == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ("complete", 10),
        ("swin-1", 5),
        ("swin-1-noncyclic", 4),
        ("swin-9", 10),
        ("logwin-2-noncyclic", 7),
        ("oneref-3", 4),
    ],
)
def test_graphs_have_their_pairs_once_and_both_ways_round(graph, expected):
    pairs = image_pairs(5, graph, symmetrised=False)
    assert len(pairs) == expected
    assert len({frozenset(pair) for pair in pairs}) == expected
    both = image_pairs(5, graph)
    assert sorted(both) == sorted([*pairs, *((j, i) for i, j in pairs)])
    if graph == "oneref-3":
        assert all(pair[0] == 3 for pair in pairs)


@pytest.mark.parametrize(
    ("num_images", "graph", "message"),
    [
        (5, "ring", "unknown; known: complete, swin-K"),
        (1, "complete", "at least two"),
        (5, "oneref-5", "one of the images"),
        (5, "swin-0", "at least 1"),
    ],
)
def test_graphs_that_cannot_be_are_refused(num_images, graph, message):
    with pytest.raises(InputError, match=message):
        image_pairs(num_images, graph)


def test_observations_that_do_not_fit_are_one_clear_sentence():
    truth = wavy_scene(3, image_pairs(3))
    points1, confidence1, points2, confidence2 = truth.maps
    for edges, maps, message in (
        ([(0, 1)] * 6, truth.maps, "each pair once"),
        ([(0, 1), (1, 3), (0, 3), (1, 0), (3, 1), (3, 0)], truth.maps, "without gaps"),
        (truth.edges[:4], truth.maps, "6 pairs for 4 pairs"),
        (truth.edges, (points1, confidence1[:, :-1], points2, confidence2), "confidence of image"),
        (truth.edges, (points1[..., :2], confidence1, points2, confidence2), r"must be \(height, width, 3\)"),
        (truth.edges, ([*points1[:-1], points1[-1][:-1]], [*confidence1[:-1], confidence1[-1][:-1]], points2, confidence2), "in another pair"),
    ):
        with pytest.raises(InputError, match=message):
            pair_observations(edges, *maps)
    with pytest.raises(InputError, match="masks of shapes"):
        pair_observations(truth.edges, *truth.maps, masks=[torch.ones(2, 2, dtype=torch.bool)] * 3)


def test_scenes_that_cannot_be_found_say_why():
    apart = wavy_scene(4, [(0, 1), (1, 0), (2, 3), (3, 2)])
    with pytest.raises(InputError, match=r"leads from image 0 to images \[2, 3\]"):
        align(apart.observations)
    truth = wavy_scene(3, image_pairs(3))
    unsure = [truth.maps[0], torch.ones_like(truth.maps[1]), truth.maps[2], truth.maps[3]]
    with pytest.raises(InputError, match="fewer than 6 pixels"):
        align(pair_observations(truth.edges, *unsure))
    for known, message in (
        (KnownCameras(truth.world_from_camera[:2]), "for all images or for none"),
        (KnownCameras(truth.world_from_camera * 2), "must be rigid motions"),
        (KnownCameras(torch.eye(4).repeat(3, 1, 1)), "in one place"),
        (KnownCameras(focal_px=-truth.focal_px), "must be positive"),
        (KnownCameras(focal_px=truth.focal_px * float("nan")), "finite"),
    ):
        with pytest.raises(InputError, match=message):
            align(truth.observations, known)
