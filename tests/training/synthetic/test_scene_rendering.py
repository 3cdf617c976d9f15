"""Procedural scenes are rendered with the exact truth of every pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.support.procedural_scene import camera_pose, procedural_room
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.synthetic.scenes.intersection import HeightGrids, height_at
from perception_training.data.synthetic.scenes.render import Rendering, render, to_display
from perception_training.data.synthetic.scenes.scene import Kind, SceneBatch, concatenate
from perception_training.data.synthetic.scenes.texture_stack import TextureStack
from perception_training.data.synthetic.scenes.trajectories import trajectories
from perception_training.data.synthetic.scenes.unit_frames import rigid_inverse


@pytest.fixture(scope="module")
def room() -> SceneBatch:
    return procedural_room(num_clips=2, num_frames=3)


@pytest.fixture(scope="module")
def rendering(room: SceneBatch) -> Rendering:
    return render(room)


def one_shape(kind: Kind, size: tuple[float, float, float], distance: float = 3.0, image_size: tuple[int, int] = (48, 64)) -> SceneBatch:
    """One primitive at the origin, seen along +x by a level camera, under one light at the camera."""
    room = procedural_room(num_frames=1, num_solids=1, image_size=image_size, terrain=False)
    eye = torch.tensor([[[-distance, 0.0, 0.0]]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64).expand(1, 1, 7, 4, 4).clone()
    kinds = torch.zeros(1, 7, dtype=torch.int64)
    kinds[0, 6] = kind
    sizes = torch.ones(1, 7, 3)
    sizes[0, 6] = torch.tensor(size)
    return replace(
        room,
        kind=kinds,
        size=sizes,
        world_from_primitive=pose,
        world_from_camera=camera_pose(eye, torch.zeros_like(eye)),
        light_position=eye.float()[:, :, None],
        intrinsics=torch.tensor([[[60.0, 60, 32, 24]]], dtype=torch.float64),
        light_colour=torch.ones(1, 1, 3),
        texture=torch.full((1, 7), -1),
        specular=torch.zeros(1, 7),
    )


def world_points(scene: SceneBatch, depth: Tensor) -> Tensor:
    """(B, T, H, W, 3) float64 from depth and camera alone."""
    height, width = scene.image_size
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    fx, fy, cx, cy = (part[..., None, None] for part in scene.intrinsics.unbind(-1))
    camera = torch.stack([(column - cx) / fx, (row - cy) / fy, torch.ones_like(depth, dtype=torch.float64)], -1) * depth.double()[..., None]
    pose = scene.world_from_camera[:, :, None, None]
    return (pose[..., :3, :3] @ camera[..., None])[..., 0] + pose[..., :3, 3]


def surface_gap(scene: SceneBatch, points: Tensor, primitive: Tensor) -> Tensor:
    """Distance in metres, or a bound of it, between points (B, T, ..., 3) and the surfaces of their primitives (B, T, ...)."""
    clip = torch.arange(scene.num_clips).view(-1, *[1] * (primitive.ndim - 1)).expand_as(primitive)
    frame = torch.arange(scene.num_frames).view(1, -1, *[1] * (primitive.ndim - 2)).expand_as(primitive)
    into = rigid_inverse(scene.world_from_primitive)[clip, frame, primitive]
    local = (into[..., :3, :3] @ points[..., None])[..., 0] + into[..., :3, 3]
    size, kind = scene.size.double()[clip, primitive], scene.kind[clip, primitive]
    x, y, z = (local / size).unbind(-1)
    smallest = size.amin(-1)
    field = HeightGrids(scene.heights, scene.height_index[clip, primitive])
    gaps = {
        Kind.BOX: ((local.abs() - size).amax(-1)).abs(),
        Kind.ELLIPSOID: (torch.sqrt(x**2 + y**2 + z**2) - 1).abs() * smallest,
        Kind.CYLINDER: (torch.maximum(torch.hypot(x, y), z.abs()) - 1).abs() * smallest,
        Kind.PLANE: local[..., 2].abs(),
        Kind.HEIGHT_FIELD: (z - height_at(field, x, y)).abs() * size[..., 2],
    }
    return sum(torch.where(kind == one, gap, 0) for one, gap in gaps.items())  # type: ignore[return-value]


def test_depth_of_every_pixel_lies_on_the_surface_of_its_primitive(room, rendering):
    truth = rendering.truth
    assert (truth.primitive >= 0).all(), "a closed room has no sky"
    assert set(room.kind.unique().tolist()) == set(room.kind.gather(1, truth.primitive.flatten(1)).unique().tolist()), "all kinds are in view"
    gap = surface_gap(room, world_points(room, truth.depth), truth.primitive)
    assert gap.max() < 2e-5
    assert gap.mean() < 5e-7


def test_depth_agrees_with_rays_in_double_precision(room, rendering):
    height, width = room.image_size
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for frame in range(room.num_frames):
        queries = torch.stack([torch.full_like(row, frame), column, row], -1).flatten(0, 1)[None].expand(2, -1, -1)
        exact = trajectories(room, queries)
        found = rendering.truth.primitive[:, frame].flatten(1)
        same = exact.primitive == found
        assert (~same).double().mean() < 2e-3, "rounding may decide only the pixels of an edge"
        error = (exact.points_camera[:, frame, :, 2] - rendering.truth.depth[:, frame].flatten(1).double()).abs()[same]
        assert error.quantile(0.999) < 2e-6
        assert error.max() < 1e-3


def test_normals_are_perpendicular_to_the_surface_around_and_face_the_camera(room, rendering):
    truth = rendering.truth
    normal = truth.normal.movedim(2, -1).double()
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(truth.depth.shape, dtype=torch.float64), atol=1e-5, rtol=0)
    points = world_points(room, truth.depth)
    turned = (room.world_from_camera[:, :, None, None, :3, :3] @ normal[..., None])[..., 0]
    assert ((points - room.world_from_camera[:, :, None, None, :3, 3]) * turned).sum(-1).max() < 1e-5
    across, down = points[..., 1:-1, 2:, :] - points[..., 1:-1, :-2, :], points[..., 2:, 1:-1, :] - points[..., :-2, 1:-1, :]
    measured = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    cosine = (measured * turned[..., 1:-1, 1:-1, :]).sum(-1).abs()
    inner = torch.ones_like(cosine, dtype=torch.bool)
    number = truth.primitive
    for shifted in (number[..., 1:-1, 2:], number[..., 1:-1, :-2], number[..., 2:, 1:-1], number[..., :-2, 1:-1]):
        inner &= shifted == number[..., 1:-1, 1:-1]
    assert cosine[inner].median() > 0.9999
    assert (cosine[inner] > 0.98).double().mean() > 0.9, "all but edges of boxes, rims and creases"


@pytest.mark.parametrize(
    ("kind", "size", "middle"),
    [(Kind.BOX, (0.5, 0.6, 0.7), 2.5), (Kind.ELLIPSOID, (0.5, 0.6, 0.7), 2.5), (Kind.CYLINDER, (0.5, 0.6, 0.7), 2.5)],
)
def test_a_shape_covers_the_pixels_that_its_size_says(kind, size, middle):
    depth = render(one_shape(kind, size)).truth.depth[0, 0]
    assert depth[24, 32] == pytest.approx(middle, abs=1e-6)
    across = (depth[24] > 0).sum().item()
    half = {Kind.BOX: 0.6 / 2.5, Kind.ELLIPSOID: 0.6 / (3 * (1 - 0.5**2 / 9) ** 0.5), Kind.CYLINDER: 0.6 / (3 * (1 - 0.5**2 / 9) ** 0.5)}[kind]
    assert across == 1 + 2 * int(60 * half)


def test_culled_and_plain_paths_give_the_same(room, rendering):
    plain = render(room, culled=False)
    for name in ("depth", "primitive", "object_id", "dynamic", "normal"):
        torch.testing.assert_close(getattr(plain.truth, name), getattr(rendering.truth, name), atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.radiance, rendering.radiance, atol=1e-5, rtol=0)


def test_a_batch_is_its_clips_one_by_one_and_rendering_repeats_itself(room, rendering):
    again = render(room)
    assert torch.equal(again.radiance, rendering.radiance)
    assert torch.equal(again.truth.depth, rendering.truth.depth)
    for clip in range(2):
        alone = render(room.at_clips([clip]))
        assert torch.equal(alone.radiance[0], rendering.radiance[clip])
        assert torch.equal(alone.truth.primitive[0], rendering.truth.primitive[clip])
    joined = render(concatenate([room.at_clips([1]), procedural_room(num_frames=3, num_solids=5, terrain=False, seed=4)]))
    torch.testing.assert_close(joined.radiance[0], rendering.radiance[1], atol=1e-6, rtol=0)
    shorter = render(room.at_frames([2, 0]))
    assert torch.equal(shorter.radiance, rendering.radiance[:, [2, 0]])


def test_ids_and_motion_are_those_of_the_primitive(room, rendering):
    truth = rendering.truth
    assert torch.equal(truth.object_id.long(), truth.primitive + 1)
    moving = torch.stack([room.is_dynamic[clip][truth.primitive[clip]] for clip in range(2)])
    assert torch.equal(truth.dynamic, moving)
    assert 0.02 < truth.dynamic.double().mean() < 0.8


def test_where_nothing_is_hit_all_truth_is_empty_and_the_sky_shows():
    scene = one_shape(Kind.ELLIPSOID, (0.5, 0.5, 0.5))
    result = render(scene)
    empty = result.truth.primitive[0, 0] < 0
    assert empty.double().mean() > 0.5
    assert not result.truth.depth[0, 0][empty].any()
    assert not result.truth.object_id[0, 0][empty].any()
    assert not result.truth.dynamic[0, 0][empty].any()
    assert not result.truth.normal[0, 0][:, empty].any()
    torch.testing.assert_close(result.radiance[0, 0, :, -1, 0], scene.background[0, 0])
    assert (result.radiance[0, 0, 2, 0] - result.radiance[0, 0, 0, 0] > 0.05).all(), "towards the zenith the sky is blue"


def test_light_falls_by_cosine_and_square_of_the_distance():
    scene = one_shape(Kind.PLANE, (5.0, 5.0, 0.0), distance=2.0)
    upright = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    scene = replace(scene, world_from_primitive=upright.expand(1, 1, 7, 4, 4), ambient=torch.zeros(1, 3), tint=torch.full((1, 7, 3), 0.5))
    result = render(scene)
    points = world_points(scene, result.truth.depth)
    squared = ((points - scene.light_position[0, 0, 0]) ** 2).sum(-1)
    expected = 0.5 * (2.0 / squared.sqrt()) / squared
    torch.testing.assert_close(result.radiance[:, :, 0].double(), expected, atol=1e-5, rtol=0)


def test_shadows_lie_where_the_way_to_the_light_is_blocked(room):
    scene = replace(room, ambient=torch.zeros(2, 3), light_colour=room.light_colour * torch.tensor([1.0, 0.0])[:, None], specular=room.specular * 0)
    result = render(scene)
    dark = result.radiance.sum(2) == 0
    points = world_points(scene, result.truth.depth)
    normal = (room.world_from_camera[:, :, None, None, :3, :3] @ result.truth.normal.movedim(2, -1).double()[..., None])[..., 0]
    to_light = room.light_position[:, :, None, None, 0].double() - points
    facing = (to_light * normal).sum(-1) / to_light.norm(dim=-1)
    assert dark[facing < -1e-3].all()
    blocked = torch.zeros_like(dark)
    for share in torch.linspace(0.02, 0.995, 60):
        on_the_way = points + (1 - share) * to_light
        for member in range(7, room.num_primitives):
            blocked |= inside_solid(room, on_the_way, member)
    sheet = torch.stack([room.kind[clip][result.truth.primitive[clip]] == Kind.HEIGHT_FIELD for clip in range(2)])
    sure = (facing > 0.05) & ~sheet
    agree = (dark == blocked)[sure]
    assert blocked[sure].double().mean() > 0.02
    assert agree.double().mean() > 0.985, "samples on the way miss the thinnest shadows, and those of the hills"


def inside_solid(scene: SceneBatch, points: Tensor, member: int) -> Tensor:
    """Whether points (B, T, H, W, 3) lie inside a solid primitive, by its definition."""
    into = rigid_inverse(scene.world_from_primitive)[:, :, member][:, :, None, None]
    unit = ((into[..., :3, :3] @ points[..., None])[..., 0] + into[..., :3, 3]) / scene.size[:, member].double()[:, None, None, None]
    x, y, z = unit.unbind(-1)
    kind = Kind(int(scene.kind[0, member]))
    if kind == Kind.BOX:
        return unit.abs().amax(-1) < 1
    if kind == Kind.ELLIPSOID:
        return unit.norm(dim=-1) < 1
    return (torch.hypot(x, y) < 1) & (z.abs() < 1)


def test_supersampling_averages_and_leaves_truth_alone(room, rendering):
    fine = render(room, supersampling=2)
    assert torch.equal(fine.truth.depth, rendering.truth.depth)
    assert fine.radiance.shape == rendering.radiance.shape
    error = (fine.radiance - rendering.radiance).abs().mean()
    shifted = (fine.radiance[..., 1:] - rendering.radiance[..., :-1]).abs().mean()
    assert error < 0.6 * shifted, "nothing moves"
    assert render(room, truth=False).truth is None
    assert render(room, images=False).radiance is None


def test_exposure_is_a_gain_of_each_frame(room, rendering):
    brighter = render(replace(room, exposure=torch.tensor([[1.0, 2.0, 0.5]]).expand(2, -1)))
    torch.testing.assert_close(brighter.radiance, rendering.radiance * torch.tensor([1.0, 2.0, 0.5])[:, None, None, None])


def test_distant_textures_fade_to_their_mean_instead_of_aliasing():
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    textures = TextureStack.from_images(checks, srgb=False)
    place = torch.rand(2, 500)
    at = [textures.lookup(torch.zeros(500, dtype=torch.int64), *place, torch.full((500,), level))[0] for level in (0.0, 1.0, 6.0, 99.0)]
    assert at[0].std() > 0.1
    for coarse in at[1:]:
        torch.testing.assert_close(coarse, torch.full((500,), 0.5))


def test_textures_are_read_at_their_texels_and_repeat():
    images = torch.rand(3, 3, 16, 16)
    textures = TextureStack.from_images(images, srgb=False)
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    for number in range(3):
        for turn in (0, -3, 2):
            index = torch.full((16, 16), number)
            read = torch.stack(textures.lookup(index, (column + 0.5) / 16 + turn, (row + 0.5) / 16 - turn, torch.zeros(16, 16)))
            torch.testing.assert_close(read, images[number], atol=1e-4, rtol=0)


def test_display_inverts_the_textures_gamma():
    assert (to_display(TextureStack.from_images(torch.full((1, 3, 1, 1), 100 / 255)).texels) == 100).all()


def test_a_scene_that_does_not_fit_together_is_refused(room):
    with pytest.raises(InputError, match=r"tint has shape .*: must be \(2, 19, 3\)"):
        replace(room, tint=room.tint[:, :3])
    with pytest.raises(InputError, match=r"world_from_camera is torch.float32: must be torch.float64"):
        replace(room, world_from_camera=room.world_from_camera.float())
    with pytest.raises(InputError, match="differ in num_frames"):
        concatenate([room, room.at_frames([0])])
