import cv2
import numpy as np
import pytest
from tests.support.closeness import DATA, assert_close

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io import images
from perception.io.posed_frames import PosedFrameFolder, registration_lookup


def write_folder(folder, num=3, width=32, height=24, focal=40.0):
    np.savetxt(folder / "camera-intrinsics.txt", [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    for index in range(num):
        images.write_image(folder / f"frame-{index:06d}.color.png", np.full((height, width, 3), 10 * index + 5, np.uint8))
        depth = np.full((height, width), 1500 + index, np.uint16)
        depth[0, 0], depth[0, 1] = 0, 65535
        images.write_image(folder / f"frame-{index:06d}.depth.png", depth)
        pose = np.eye(4)
        pose[0, 3] = index
        np.savetxt(folder / f"frame-{index:06d}.pose.txt", pose)
    return folder


def test_frames_of_a_folder(tmp_path):
    folder = PosedFrameFolder(write_folder(tmp_path))
    frames = list(folder)
    assert [posed.name for posed in frames] == ["frame-000000", "frame-000001", "frame-000002"]
    assert [int(posed.world_from_camera[0, 3]) for posed in frames] == [0, 1, 2]
    assert (frames[2].frame.image == 25).all()
    assert_close(frames[2].frame.depth_m[5, 5], np.float32(1.502))
    assert frames[0].frame.depth_m[0, 0] == 0
    assert frames[0].frame.depth_m[0, 1] == 0
    assert frames[0].frame.time_ns > 0
    assert all(np.diff([posed.frame.time_ns for posed in frames]) > 0)


def test_natural_order_and_frames_without_depth(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path / "frame-000000.depth.png").unlink()
    for suffix in ("color.png", "pose.txt"):
        (tmp_path / f"frame-000001.{suffix}").rename(tmp_path / f"frame-10.{suffix}")
        (tmp_path / f"frame-000000.{suffix}").rename(tmp_path / f"frame-9.{suffix}")
    frames = list(PosedFrameFolder(tmp_path))
    assert [posed.name for posed in frames] == ["frame-9", "frame-10"]
    assert frames[0].frame.depth_m is None


def test_mask_beside_the_frame(tmp_path):
    write_folder(tmp_path, 1)
    mask = np.zeros((24, 32), np.uint8)
    mask[3:6, 4:9] = 255
    images.write_image(tmp_path / "frame-000000.mask.png", mask)
    np.testing.assert_array_equal(PosedFrameFolder(tmp_path)[0].frame.mask, mask > 0)


def test_depth_is_registered_along_the_same_ray(tmp_path):
    """A wall with a step: its edge must appear where the colour camera sees it, with no depths in between."""
    write_folder(tmp_path, 1, 64, 48, focal=60.0)
    depth = np.full((48, 64), 1000, np.uint16)
    depth[:, 44:] = 3000  # 12 px right of the principal point in the depth image
    images.write_image(tmp_path / "frame-000000.depth.png", depth)
    posed = PosedFrameFolder(tmp_path, colour_focal_px=40.0)[0]
    assert posed.frame.camera.fx == 40.0
    row = posed.frame.depth_m[24]
    assert set(np.unique(np.rint(1e4 * row) / 1e4).tolist()) == {0.0, 1.0, 3.0}
    assert_close(row[32:40], np.ones(8, np.float32))  # 12 px at 60 px focal length are 8 px at 40
    assert_close(row[41:52], np.full(11, 3.0, np.float32))
    assert row[60] == 0  # outside of the depth camera's view


def test_registration_lookup_twin():
    colour, depth = Camera(20, 16, 30, 32, 9.0, 8.5), Camera(20, 16, 41, 40, 10.0, 7.0)
    x, y = registration_lookup(colour, depth)
    for row, column in ((0, 0), (7, 3), (15, 19)):
        ray = ((column - colour.cx) / colour.fx, (row - colour.cy) / colour.fy)
        assert_close(x[row, column], np.float32(ray[0] * depth.fx + depth.cx))
        assert_close(y[row, column], np.float32(ray[1] * depth.fy + depth.cy))


def damage_pose(folder):
    np.savetxt(folder / "frame-000001.pose.txt", 2 * np.eye(4))


def damage_numbers(folder):
    (folder / "frame-000001.pose.txt").write_text("a b c d\n")


def damage_mirror(folder):
    np.savetxt(folder / "frame-000001.pose.txt", np.diag([1, 1, -1, 1]))


def damage_shape(folder):
    np.savetxt(folder / "frame-000001.pose.txt", np.eye(3))


def damage_nan(folder):
    np.savetxt(folder / "frame-000001.pose.txt", np.full((4, 4), np.nan))


def damage_colour(folder):
    path = folder / "frame-000001.color.png"
    path.write_bytes(path.read_bytes()[:30])


def damage_depth_size(folder):
    images.write_image(folder / "frame-000001.depth.png", np.ones((5, 5), np.uint16))


def damage_depth_type(folder):
    images.write_image(folder / "frame-000001.depth.png", np.ones((24, 32), np.uint8))


def remove_pose(folder):
    (folder / "frame-000001.pose.txt").unlink()


def resize_colour(folder):
    images.write_image(folder / "frame-000001.color.png", np.zeros((10, 10, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "file"),
    [(damage_pose, "pose.txt"), (damage_numbers, "pose.txt"), (damage_mirror, "pose.txt"), (damage_shape, "pose.txt"), (damage_nan, "pose.txt"),
     (remove_pose, "pose.txt"), (damage_colour, "color.png"), (resize_colour, "color.png"), (damage_depth_size, "depth.png"),
     (damage_depth_type, "depth.png")],
)  # fmt: skip
def test_damage_names_the_file(tmp_path, damage, file):
    damage(write_folder(tmp_path))
    folder = PosedFrameFolder(tmp_path)
    assert folder[0].frame.image.shape == (24, 32, 3)
    with pytest.raises(InputError, match=r"frame-000001\." + file.replace(".", r"\.")):
        folder[1]


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        PosedFrameFolder(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no frames"):
        PosedFrameFolder(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "camera-intrinsics.txt").unlink()
    with pytest.raises(InputError, match=r"camera-intrinsics\.txt"):
        PosedFrameFolder(tmp_path)


def lifted_depth_error(first, second):
    """Lift pixels of one frame into another by the recorded poses: absolute differences in depth (m), occluded points left out."""
    camera, depth_m = first.frame.camera, first.frame.depth_m
    rows, columns = np.nonzero(depth_m > 0)
    z = depth_m[rows, columns]
    points = np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z, z], 1)
    second_from_first = np.linalg.inv(second.world_from_camera) @ first.world_from_camera
    moved = points @ second_from_first[:3, :3].T + second_from_first[:3, 3]
    moved = moved[moved[:, 2] > 0.1]
    x = np.rint(moved[:, 0] / moved[:, 2] * camera.fx + camera.cx).astype(int)
    y = np.rint(moved[:, 1] / moved[:, 2] * camera.fy + camera.cy).astype(int)
    inside = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    seen, expected = second.frame.depth_m[y[inside], x[inside]], moved[inside, 2]
    return np.abs(seen - expected)[(seen > 0) & (seen > expected - 0.1)]


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "redkitchen").is_dir(), reason="redkitchen is not there")
def test_red_kitchen_depth_agrees_between_frames():
    folder = PosedFrameFolder(DATA / "redkitchen")
    assert len(folder) == 150
    assert folder.camera.fx == 525.0
    assert folder.depth_camera.fx == 585.0
    for gap, least_share in ((5, 0.95), (15, 0.9)):
        errors = [lifted_depth_error(folder[first], folder[first + gap]) for first in range(0, 130, 40)]
        assert min(map(len, errors)) > 100_000
        assert np.median([(error < 0.03).mean() for error in errors]) > least_share


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "redkitchen").is_dir(), reason="redkitchen is not there")
def test_red_kitchen_colour_and_depth_edges_meet_better_with_registration():
    """Depth edges lie on colour edges: the mean colour gradient along depth edges is higher at 525 px than without registration."""
    strength = {}
    for focal_px in (525.0, 585.0):
        folder = PosedFrameFolder(DATA / "redkitchen", colour_focal_px=focal_px)
        values = []
        for index in range(0, 150, 15):
            frame = folder[index].frame
            grey = cv2.GaussianBlur(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)
            gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
            depth = frame.depth_m
            edge = (np.abs(depth[:, 1:] - depth[:, :-1]) > 0.15) & (depth[:, 1:] > 0) & (depth[:, :-1] > 0)
            edge[:, 160:480] = False  # near the middle both are the same
            values.append(gradient[:, 1:][edge].mean() / gradient.mean())
        strength[focal_px] = np.mean(values)
    assert strength[525.0] > 1.05 * strength[585.0], strength
