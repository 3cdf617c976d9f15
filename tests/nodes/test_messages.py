"""Arrays, cameras, poses and clouds as messages and back."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField
from tests.nodes.fakes import quick_estimate
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.types import Camera, FeatureMap, Grid, TrackSet
from perception.geometry import se3
from perception.io.ros_images import camera_from_info, image_to_array
from perception.nodes import messages

pytestmark = pytest.mark.ros
HEADER = messages.header_of(12_345_678_901, "camera")


@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"), [("rgb8", np.uint8, 3), ("mono16", np.uint16, 1), ("32FC1", np.float32, 1), ("32FC7", np.float32, 7)]
)
def test_image_round_trip_through_the_wire(encoding: str, dtype: type, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (5, 6, channels)).astype(dtype)
    pixels = pixels[..., 0] if channels == 1 else pixels
    message = deserialize_message(serialize_message(messages.image_message(pixels, encoding, HEADER)), Image)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (12, 345_678_901, "camera")
    assert_close(image_to_array(message), pixels)


def test_image_takes_any_memory_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8)
    assert_close(image_to_array(messages.image_message(pixels[::2, ::-1, ::-1], "bgr8", HEADER)), pixels[::2, ::-1, ::-1])


def test_image_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"rgb8 image of shape \(4, 4, 3\) and type float32: must have 3 channel"):
        messages.image_message(np.zeros((4, 4, 3), np.float32), "rgb8", HEADER)
    with pytest.raises(InputError, match="image encoding 'hsv': must be 32FC3 for 3 channels"):
        messages.image_message(np.zeros((4, 4, 3), np.float32), "hsv", HEADER)


def test_camera_round_trip() -> None:
    camera = Camera(640, 480, 500.0, 510.0, 320.5, 239.5, "plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.05))
    assert camera_from_info(messages.camera_info_message(camera, HEADER)) == camera
    pinhole = Camera(640, 480, 500.0, 510.0, 320.5, 239.5)
    assert camera_from_info(messages.camera_info_message(pinhole, HEADER)) == pinhole


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6))
def test_pose_round_trip(motion: list[float]) -> None:
    parent_from_child = np.asarray(se3.exp(np.array(motion)))
    assert_close(messages.matrix_from_pose(messages.pose_message(parent_from_child)), parent_from_child)


def test_pose_without_rotation_is_refused() -> None:
    pose = messages.pose_message(np.eye(4))
    pose.orientation.w = 0.0
    with pytest.raises(InputError, match="must have length 1"):
        messages.matrix_from_pose(pose)


def test_transform_and_covariance_say_the_same_as_the_estimate() -> None:
    estimate = quick_estimate("cup", 0.8)
    transform = messages.transform_message(estimate, HEADER)
    assert (transform.header.frame_id, transform.child_frame_id) == ("camera", "cup")
    quaternion, half = transform.transform.rotation, np.sqrt(0.5)  # a quarter turn about z
    assert_close(np.array([quaternion.x, quaternion.y, quaternion.z, quaternion.w]), np.array([0, 0, half, half]))
    posed = messages.pose_with_covariance(estimate, HEADER)
    assert_close(messages.matrix_from_pose(posed.pose.pose), estimate.camera_from_object)
    assert_close(np.array(posed.pose.covariance).reshape(6, 6), estimate.covariance)


def test_detection_box_is_centred_on_the_bounds() -> None:
    vision = SimpleNamespace(
        ObjectHypothesisWithPose=lambda: SimpleNamespace(hypothesis=SimpleNamespace(class_id="", score=0.0), pose=None),
        Detection3D=lambda **values: SimpleNamespace(**values, bbox=SimpleNamespace(center=None, size=None)),
        Detection3DArray=lambda **values: SimpleNamespace(**values),
    )  # vision_msgs is not on PyPI
    estimate = quick_estimate("cup", 0.8)
    estimate.bounds_object[:] = [[0.0, 0.0, 0.0], [0.2, 0.4, 0.6]]
    (detection,) = messages.detections_message(vision, (estimate,), HEADER).detections
    assert_close(np.float32([detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z]), np.float32([0.2, 0.4, 0.6]))
    centre = messages.matrix_from_pose(detection.bbox.center)[:3, 3]
    assert_close(centre.astype(np.float32), np.float32([0.1 - 0.2, -0.2 + 0.1, 1.0 + 0.3]))  # (0.1, 0.2, 0.3) turned a quarter about z


def test_cloud_round_trip_with_padding_and_arrays() -> None:
    dtype = np.dtype({"names": ["x", "rgb", "normal"], "formats": ["<f4", "u1", ("<f4", (3,))], "offsets": [0, 4, 8], "itemsize": 24})
    points = np.zeros((3, 4), dtype)
    points["x"], points["rgb"] = np.arange(12).reshape(3, 4), 7
    points["normal"] = np.random.default_rng(0).normal(size=(3, 4, 3))
    message = deserialize_message(serialize_message(messages.point_cloud_message(points, HEADER)), PointCloud2)
    read = messages.points_from_message(message)
    assert (message.point_step, message.row_step, message.is_dense) == (24, 96, True)
    for name in dtype.names or ():
        assert_close(read[name], points[name])
    points["x"][0, 0] = np.nan
    assert not messages.point_cloud_message(points, HEADER).is_dense


def test_cloud_of_another_byte_order_and_padded_rows() -> None:
    fields = [PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1)]
    message = PointCloud2(height=2, width=2, fields=fields, is_bigendian=True, point_step=4, row_step=12)
    message.data = np.array([1, 2, -1, 3, 4, -1], ">f4").tobytes()
    assert_close(messages.points_from_message(message)["x"].astype(np.float32), np.float32([[1, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("change", "text"),
    [({"row_step": 4}, "too short"), ({"width": 9}, "too short"), ({"point_step": 2}, "do not fit into point_step 2")],
)
def test_cloud_that_does_not_fit_is_refused(change: dict[str, int], text: str) -> None:
    message = messages.point_cloud_message(np.zeros(4, [("x", "<f4"), ("y", "<f4")]), HEADER)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(InputError, match=text):
        messages.points_from_message(message)


def test_tracks() -> None:
    tracks = TrackSet(np.array([4, 9]), np.float32([[1, 2], [3, 4]]), np.array([True, False]), np.float32([0.9, 0.1]), 0)
    read = messages.points_from_message(messages.tracks_message(tracks, HEADER))
    assert read["id"].tolist() == [4, 9]
    assert read["visible"].tolist() == [1, 0]
    assert read["x"].tolist() == [1, 3]
    assert read["z"].tolist() == [0, 0]


def test_features_and_their_metadata_agree() -> None:
    descriptors = torch.arange(2 * 5 * 6, dtype=torch.float32).reshape(2, 5, 6)
    features = FeatureMap(descriptors, Grid((1.5, 3.5), (4.0, 8.0)), (40, 24), "fake", 0)
    pixels = image_to_array(messages.features_message(features, 2, HEADER))
    metadata = json.loads(messages.json_message(messages.features_metadata(features, 2)).data)
    assert pixels.shape == (metadata["rows"], metadata["cols"], metadata["dim"]) == (3, 3, 2)
    assert pixels[1, 2].tolist() == descriptors[:, 2, 4].tolist()
    assert metadata["grid"] == {"offset_px": [1.5, 3.5], "stride_px": [8.0, 16.0]}
    assert metadata["image_size"] == {"width": 24, "height": 40}
