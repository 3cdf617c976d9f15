import numpy as np
import pytest
from tests.support.closeness import DATA, assert_close

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.io import images, meshes
from perception.io.bags import BagWriter, PoseTrack
from perception.io.videos import VideoWriter
from perception.rendering import primitives
from perception.rendering.reference_sources import ReferenceConfig, open_references, pose_at

CAMERA = Camera(32, 24, 40.0, 40.0, 15.5, 11.5)
STEP_NS = 100_000_000


def world_from_camera(index):
    return se3.exp(np.array([0.1 * index, 0.2, -0.3, 0.02 * index, 0.1, -0.2]))


def write_bag(path, num=10, pose_frame="map", pose_offset_ns=0, transforms=False, num_poses=None):
    with BagWriter(path) as writer:
        for index in range(num):
            time_ns = STEP_NS * (index + 1)
            writer.write_image("/camera/image", time_ns, np.full((24, 32, 3), index, np.uint8), "rgb8", "camera")
            writer.write_image("/camera/depth", time_ns, np.full((24, 32), 1000 + index, np.uint16), "16UC1", "camera")
            writer.write_camera_info("/camera/camera_info", time_ns, CAMERA, "camera")
            if index < (num if num_poses is None else num_poses):
                if transforms:
                    writer.write_transform(time_ns + pose_offset_ns, world_from_camera(index), pose_frame, "camera")
                    writer.write_transform(time_ns, np.eye(4), pose_frame, "table")
                else:
                    writer.write_pose("/pose", time_ns + pose_offset_ns, world_from_camera(index), pose_frame)
    return str(path)


@pytest.mark.parametrize("transforms", [False, True])
def test_bag_of_a_moving_camera(tmp_path, transforms):
    source = open_references(
        write_bag(tmp_path / "bag", transforms=transforms), ReferenceConfig(stride=3, start_frame=1, depth_topic="/camera/depth")
    )
    views = list(source)
    assert (source.kind, len(source), len(views)) == ("bag", 3, 3)
    for index, view in zip((1, 4, 7), views, strict=True):
        assert (view.frame.image == index).all()
        assert_close(view.frame.depth_m[0, 0], np.float32(1 + index / 1000))
        assert view.frame.camera == CAMERA
        assert_close(view.camera_from_object, np.linalg.inv(world_from_camera(index)))


def test_bag_of_an_object_in_the_cameras_frame(tmp_path):
    path = write_bag(tmp_path / "bag", pose_frame="camera")
    assert_close([*open_references(path, ReferenceConfig(stride=4))][1].camera_from_object, world_from_camera(4))
    forced = ReferenceConfig(stride=4, pose_meaning="world_from_camera")
    assert_close([*open_references(path, forced)][1].camera_from_object, np.linalg.inv(world_from_camera(4)))


def test_poses_between_stamps_are_interpolated_and_gaps_left_out(tmp_path, caplog):
    source = open_references(write_bag(tmp_path / "bag", pose_offset_ns=STEP_NS // 2, num_poses=6), ReferenceConfig(stride=1))
    views = list(source)
    assert [int(view.frame.image[0, 0, 0]) for view in views] == [1, 2, 3, 4, 5]
    expected = se3.interpolate(world_from_camera(1), world_from_camera(2), 0.5)
    assert_close(views[1].camera_from_object, np.linalg.inv(expected))
    assert "5 of 10 reference frames have no pose" in caplog.text


def test_pose_at_the_ends_and_in_gaps():
    track = PoseTrack(np.array([0, 100, 1_000_000_000]), np.stack([world_from_camera(index) for index in range(3)]), "map", "")
    assert pose_at(track, -1, 10) is None
    assert pose_at(track, 1_000_000_001, 10) is None
    assert pose_at(track, 500_000_000, 0.5) is None
    assert pose_at(track, 500_000_000, 1.5) is not None
    assert_close(pose_at(track, 0, 0), world_from_camera(0))
    assert_close(pose_at(track, 1_000_000_000, 0), world_from_camera(2))


def test_topics_must_be_clear(tmp_path):
    with BagWriter(tmp_path / "two") as writer:
        for name in ("left", "right"):
            writer.write_image(f"/{name}/image", 1, np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"2 colour image topics \(/left/image, /right/image\): set image_topic"):
        open_references(str(tmp_path / "two"))
    with pytest.raises(InputError, match="no topic 'camera_info'"):
        open_references(str(tmp_path / "two"), ReferenceConfig(image_topic="/left/image"))
    with pytest.raises(InputError, match=r"0 topics with poses \(none\): set pose_topic"):
        open_references(write_bag(tmp_path / "bag", num_poses=0))


def test_posed_frames(tmp_path):
    np.savetxt(tmp_path / "camera-intrinsics.txt", CAMERA.matrix)
    for index in range(7):
        images.write_image(tmp_path / f"frame-{index:06d}.color.png", np.full((24, 32, 3), index, np.uint8))
        np.savetxt(tmp_path / f"frame-{index:06d}.pose.txt", world_from_camera(index))
    source = open_references(str(tmp_path), ReferenceConfig(stride=2, end_frame=5))
    views = list(source)
    assert (source.kind, len(source)) == ("frames", 3)
    assert [int(view.frame.image[0, 0, 0]) for view in views] == [0, 2, 4]
    assert_close(views[2].camera_from_object @ world_from_camera(4), np.eye(4), atol=1e-8)
    with pytest.raises(InputError, match="none from 9 to the end"):
        open_references(str(tmp_path), ReferenceConfig(start_frame=9))


def test_mesh(tmp_path):
    rng = np.random.default_rng(0)
    box = primitives.box((200.0, 100.0, 50.0), [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(6)])
    meshes.save(box, tmp_path / "box.obj")
    config = ReferenceConfig(num_viewpoints=12, render_size_px=64, render_focal_px=70, mesh_scale=0.001)
    source = open_references(str(tmp_path / "box.obj"), config)
    views = list(source)
    assert (source.kind, len(source), len(views)) == ("mesh", 12, 12)
    for view in views:
        assert 0.02 < view.frame.mask.mean() < 0.5
        assert (view.frame.image[~view.frame.mask] < 255).all()
        np.testing.assert_array_equal(view.frame.mask, view.frame.depth_m > 0)
        assert_close(np.linalg.norm(view.normals[view.frame.mask], axis=-1), np.ones(view.frame.mask.sum(), np.float32))
        assert np.linalg.norm(view.camera_from_object[:3, 3]) == pytest.approx(0.4)
    assert len({view.frame.time_ns for view in views}) == 12


def test_sources_that_cannot_be_used(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(InputError, match="is a video: it has no camera poses"):
        open_references(str(tmp_path / "clip.mp4"))
    with pytest.raises(InputError, match="no such file or folder"):
        open_references(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is none of"):
        open_references(str(tmp_path / "empty"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="is none of"):
        open_references(str(tmp_path / "notes.txt"))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "redkitchen").is_dir(), reason="redkitchen is not there")
def test_red_kitchen():
    source = open_references(str(DATA / "redkitchen"), ReferenceConfig(end_frame=75))
    assert len(source) == 15
    view = next(iter(source))
    assert view.frame.camera.fx == 525.0
    assert (view.frame.depth_m > 0).mean() > 0.5
