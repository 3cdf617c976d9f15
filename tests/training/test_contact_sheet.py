"""The contact sheet shows every field that a sample has, at the place where it belongs."""

import numpy as np
import pytest
from tests.support.miniatures.scene import miniature_scene

from perception.core.errors import InputError
from perception_training.data.contact_sheet import contact_sheet, depth_colors, mask_colors, normal_colors
from perception_training.data.sample import ObjectTrack, Sample, Tracks


def full_sample(num_frames: int = 3) -> Sample:
    scene = miniature_scene(4)
    keep = slice(0, num_frames)
    box = ObjectTrack("box", scene.camera_from_object("box")[keep], 1, np.array([[-0.2, -0.15, -0.125], [0.2, 0.15, 0.125]]))
    return Sample(
        "miniature",
        "arc",
        tuple(f"{i:03d}" for i in range(num_frames)),
        scene.images[keep],
        cameras=scene.cameras[keep],
        world_from_camera=scene.world_from_camera[keep],
        depth_m=scene.depth_m[keep],
        masks=scene.masks[keep],
        normals=scene.normals[keep],
        dynamic=tuple(mask == 2 for mask in scene.masks[keep]),
        tracks=Tracks(scene.points_px[keep].astype(np.float32), scene.visible[keep]),
        objects=(box,),
        text="a box and a ball",
    )


def test_every_field_gets_a_row_and_every_frame_a_column():
    tile, gap, title = 160, 4, 24
    sheet = contact_sheet([full_sample()], tile_px=tile)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (title + 7 * (120 + gap) + gap, 3 * (tile + gap) - gap, 3)
    images_only = Sample("set", "one", ("a",), miniature_scene(4).images[:1])
    assert contact_sheet([images_only], tile_px=tile).shape == (title + 120 + 2 * gap, tile, 3)


def test_the_image_row_shows_the_frames_where_no_caption_covers_them():
    sample = full_sample()
    sheet = contact_sheet([sample], tile_px=160)
    for column in range(3):
        left = column * 164
        np.testing.assert_array_equal(sheet[24 : 24 + 80, left : left + 160], sample.images[column][:80])


def test_frames_are_thinned_evenly_and_samples_are_stacked():
    sample = full_sample(4)
    two = contact_sheet([sample], max_frames=2, tile_px=160)
    np.testing.assert_array_equal(two[24:104, 164:324], sample.images[3][:80])
    both = contact_sheet(iter([sample, full_sample(1)]), max_frames=2, tile_px=160)
    assert both.shape == (2 * two.shape[0], *two.shape[1:])


def test_depth_is_red_near_blue_far_and_black_where_unknown():
    colors = depth_colors(np.array([[0.0, 1.0, 3.0]], np.float32), 1.0, 3.0).astype(int)
    assert colors[0, 0].tolist() == [0, 0, 0]
    assert colors[0, 1, 0] > colors[0, 1, 2]
    assert colors[0, 2, 2] > colors[0, 2, 0]


def test_masks_tint_by_id_and_leave_the_background_grey():
    image = np.full((1, 3, 3), (30, 60, 90), np.uint8)
    colors = mask_colors(image, np.array([[0, 1, 2]], np.int32))
    assert colors[0, 0].tolist() == [60, 60, 60]
    assert len({tuple(color) for color in colors[0].tolist()}) == 3


def test_a_surface_that_faces_the_camera_is_blue():
    colors = normal_colors(np.array([[[0, 0, -1], [1, 0, 0], [0, -1, 0], [0, 0, 0]]], np.float32))
    assert colors[0].tolist() == [[128, 128, 255], [255, 128, 128], [128, 255, 128], [0, 0, 0]]


def test_unknown_poses_tracks_and_depth_do_not_stop_the_sheet():
    sample = full_sample(2)
    assert sample.tracks is not None
    points = sample.tracks.points_px.copy()
    points[1] = np.nan
    nowhere = ObjectTrack("gone", np.full((2, 4, 4), np.nan), 1, sample.objects[0].bounds)
    bare = Sample(
        "set",
        "gaps",
        ("a", "b"),
        (sample.images[0], sample.images[1][:60, :90].copy()),
        depth_m=(np.zeros((120, 160), np.float32), np.zeros((60, 90), np.float32)),
        cameras=(None, None),
        tracks=Tracks(points, sample.tracks.visible),
        objects=(nowhere,),
    )
    assert contact_sheet([bare]).shape[1] == 2 * 196 - 4


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="no samples"):
        contact_sheet([])
    with pytest.raises(InputError, match="at least 1 frame"):
        contact_sheet([full_sample()], max_frames=0)
