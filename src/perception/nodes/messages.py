"""Arrays, cameras and poses as ROS messages and back."""

from __future__ import annotations

import importlib
import json
from array import array
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseArray, PoseStamped, PoseWithCovarianceStamped, Quaternion, TransformStamped, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header, String

from perception.core.errors import InputError
from perception.core.types import Camera, FeatureMap, PoseEstimate, PoseResult, TrackSet
from perception.geometry.so3 import from_quaternion_xyzw, to_quaternion_xyzw

POINT_FIELD_TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
"""NumPy kind and size of each sensor_msgs/PointField datatype."""
_NUMPY_TYPES = {number: np.dtype(name) for name, number in POINT_FIELD_TYPES.items()}
TRACK_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("id", "<i4"), ("visible", "u1"), ("score", "<f4")])
"""One tracked point in a PointCloud2: x and y in pixels, z is 0."""
ENCODINGS = {"rgb8": (np.uint8, 3), "bgr8": (np.uint8, 3), "mono8": (np.uint8, 1), "mono16": (np.uint16, 1), "16UC1": (np.uint16, 1)}


def data_bytes(values: NDArray) -> array:
    """The bytes of an array as rclpy takes them fastest: other sequences are checked element by element when assigned to a message."""
    data = array("B")
    data.frombytes(np.ascontiguousarray(values).data.cast("B"))
    return data


def stamp_of(time_ns: int) -> Time:
    """A ROS time of nanoseconds."""
    return Time(sec=time_ns // 1_000_000_000, nanosec=time_ns % 1_000_000_000)


def header_of(time_ns: int, frame_id: str) -> Header:
    """A header with stamp and frame."""
    return Header(stamp=stamp_of(time_ns), frame_id=frame_id)


def optional_messages(package: str) -> ModuleType | None:
    """The messages of a package that is not on PyPI (`tf2_msgs`, `vision_msgs`), or None where it is not installed."""
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError:
        return None


def image_message(pixels: NDArray, encoding: str, header: Header) -> Image:
    """An Image of (height, width) or (height, width, channels) values; the encoding must fit type and channels."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    dtype, expected = ENCODINGS.get(encoding, (np.float32, channels))
    if encoding not in ENCODINGS and encoding != f"32FC{channels}":
        raise InputError(f"image encoding {encoding!r}: must be 32FC{channels} for {channels} channels, or one of {', '.join(ENCODINGS)}")
    if pixels.dtype != dtype or channels != expected:
        raise InputError(f"{encoding} image of shape {pixels.shape} and type {pixels.dtype}: must have {expected} channel(s) of {np.dtype(dtype)}")
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=width * channels * pixels.itemsize)
    message.data = data_bytes(pixels)
    return message


def camera_info_message(camera: Camera, header: Header) -> CameraInfo:
    """A CameraInfo without rectification."""
    message = CameraInfo(header=header, width=camera.width, height=camera.height)
    message.distortion_model = "plumb_bob" if camera.distortion_model == "none" else camera.distortion_model
    message.d = list(camera.distortion) or [0.0] * 5
    message.k = camera.matrix.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel().tolist()
    return message


def pose_message(parent_from_child: NDArray) -> Pose:
    """A Pose of a (4, 4) transform."""
    x, y, z = (float(value) for value in parent_from_child[:3, 3])
    qx, qy, qz, qw = (float(value) for value in np.asarray(to_quaternion_xyzw(parent_from_child[:3, :3])))
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def matrix_from_pose(pose: Any) -> NDArray[np.float64]:
    """The (4, 4) transform of a Pose; InputError when its quaternion is zero or not finite."""
    xyzw = np.array([pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w])
    norm = np.linalg.norm(xyzw)
    if not np.isfinite(norm) or norm < 1e-6:
        raise InputError(f"quaternion {xyzw.tolist()} (x, y, z, w): must have length 1")
    parent_from_child = np.eye(4)
    parent_from_child[:3, :3] = from_quaternion_xyzw(xyzw / norm)
    parent_from_child[:3, 3] = pose.position.x, pose.position.y, pose.position.z
    return parent_from_child


def pose_stamped(parent_from_child: NDArray, header: Header) -> PoseStamped:
    """A PoseStamped of a (4, 4) transform."""
    return PoseStamped(header=header, pose=pose_message(parent_from_child))


def pose_array(estimates: tuple[PoseEstimate, ...], header: Header) -> PoseArray:
    """The poses of all objects of one frame."""
    return PoseArray(header=header, poses=[pose_message(estimate.camera_from_object) for estimate in estimates])


def pose_with_covariance(estimate: PoseEstimate, header: Header) -> PoseWithCovarianceStamped:
    """The pose of one object with its covariance (m, rad; order x, y, z, rotations)."""
    message = PoseWithCovarianceStamped(header=header)
    message.pose.pose = pose_message(estimate.camera_from_object)
    message.pose.covariance = np.asarray(estimate.covariance, float).ravel().tolist()
    return message


def transform_message(estimate: PoseEstimate, header: Header) -> TransformStamped:
    """The object's frame (child, named as the object) in the camera frame."""
    pose = pose_message(estimate.camera_from_object)
    message = TransformStamped(header=header, child_frame_id=estimate.object_name)
    message.transform.translation = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
    message.transform.rotation = pose.orientation
    return message


def pose_status(result: PoseResult) -> dict[str, Any]:
    """What ~/status says about the objects of one frame."""
    estimates = [
        {
            "object": estimate.object_name,
            "score": float(estimate.score),
            "num_matches": int(estimate.num_matches),
            "num_inliers": int(estimate.num_inliers),
            "reprojection_rms_px": float(estimate.reprojection_rms_px),
            "camera_from_object": np.asarray(estimate.camera_from_object, float).ravel().tolist(),
        }
        for estimate in result.estimates
    ]
    misses = [
        {
            "object": miss.object_name,
            "reason": miss.reason,
            "num_matches": int(miss.num_matches),
            "num_inliers": int(miss.num_inliers),
            "score": float(miss.score),
        }
        for miss in result.misses
    ]
    return {"estimates": estimates, "misses": misses}


def detections_message(vision_msgs: ModuleType, estimates: tuple[PoseEstimate, ...], header: Header) -> Any:
    """A Detection3DArray: the box lies round the object's bounds, the hypothesis holds the object's own pose."""
    detections = []
    for estimate in estimates:
        lower, upper = np.asarray(estimate.bounds_object, float)
        camera_from_box = estimate.camera_from_object.copy()
        camera_from_box[:3, 3] += estimate.camera_from_object[:3, :3] @ ((lower + upper) / 2)
        hypothesis = vision_msgs.ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = estimate.object_name, float(estimate.score)
        hypothesis.pose = pose_with_covariance(estimate, header).pose
        detection = vision_msgs.Detection3D(header=header, results=[hypothesis], id=estimate.object_name)
        detection.bbox.center = pose_message(camera_from_box)
        detection.bbox.size = Vector3(**dict(zip("xyz", (upper - lower).tolist(), strict=True)))
        detections.append(detection)
    return vision_msgs.Detection3DArray(header=header, detections=detections)


def point_cloud_message(points: NDArray, header: Header) -> PointCloud2:
    """A PointCloud2 of a structured array (num,) or (height, width); its fields become the cloud's, and padding in its dtype is kept."""
    if points.dtype.names is None or points.ndim not in (1, 2):
        raise InputError(f"points have shape {points.shape} and type {points.dtype}: must be a structured array of one or two axes")
    height, width = (1, *points.shape)[-2:]
    fields = []
    assert points.dtype.fields is not None
    for name in points.dtype.names:
        dtype, offset = points.dtype.fields[name][:2]
        if dtype.base.str[1:] not in POINT_FIELD_TYPES or dtype.base.str[0] == ">":
            raise InputError(f"point field {name!r} has type {dtype.base}: must be little-endian, one of {', '.join(POINT_FIELD_TYPES)}")
        count = int(np.prod(dtype.shape, dtype=int))
        fields.append(PointField(name=name, offset=offset, datatype=POINT_FIELD_TYPES[dtype.base.str[1:]], count=count))
    size = points.dtype.itemsize
    message = PointCloud2(header=header, height=height, width=width, fields=fields, is_bigendian=False, point_step=size, row_step=size * width)
    message.is_dense = all(np.isfinite(points[name]).all() for name in points.dtype.names if points.dtype[name].base.kind == "f")
    message.data = data_bytes(points)
    return message


def points_from_message(message: Any) -> NDArray:
    """The points of a PointCloud2: a structured array (num,), or (height, width) for an organised cloud; a view where rows are not padded.

    InputError when fields, steps and data do not fit together.
    """
    order: Literal[">", "<"] = ">" if message.is_bigendian else "<"
    unknown = [field.name for field in message.fields if field.datatype not in _NUMPY_TYPES]
    if unknown:
        raise InputError(f"point field(s) {', '.join(unknown)}: datatype must be one of {', '.join(map(str, _NUMPY_TYPES))}")
    types = [_NUMPY_TYPES[field.datatype].newbyteorder(order) for field in message.fields]
    formats = [(kind, (field.count,)) if field.count > 1 else kind for kind, field in zip(types, message.fields, strict=True)]
    try:
        dtype = np.dtype(
            {
                "names": [field.name for field in message.fields],
                "formats": formats,
                "offsets": [field.offset for field in message.fields],
                "itemsize": message.point_step,
            }
        )
    except ValueError as error:
        raise InputError(f"point fields do not fit into point_step {message.point_step}: {error}") from error
    data = np.frombuffer(message.data, np.uint8)
    row_bytes = message.width * message.point_step
    if message.row_step < row_bytes or data.size < message.height * message.row_step:
        found = f"row_step {message.row_step} and {data.size} bytes"
        raise InputError(f"cloud of {message.width}x{message.height} points of {message.point_step} bytes has {found}: too short")
    rows = data[: message.height * message.row_step].reshape(message.height, message.row_step)[:, :row_bytes]
    points = np.ascontiguousarray(rows).reshape(-1).view(dtype)
    return points if message.height == 1 else points.reshape(message.height, message.width)


def tracks_message(tracks: TrackSet, header: Header) -> PointCloud2:
    """Tracked points in pixels, see TRACK_DTYPE."""
    points = np.zeros(len(tracks.ids), TRACK_DTYPE)
    points["x"], points["y"] = tracks.points_px.T
    points["id"], points["visible"], points["score"] = tracks.ids, tracks.visible, tracks.score
    return point_cloud_message(points, header)


def features_message(features: FeatureMap, stride_cells: int, header: Header) -> Image:
    """Every `stride_cells`-th descriptor of a map as a 32FC<dim> Image."""
    chosen = features.descriptors[:, ::stride_cells, ::stride_cells].permute(1, 2, 0)
    return image_message(chosen.float().cpu().numpy(), f"32FC{features.dim}", header)


def features_metadata(features: FeatureMap, stride_cells: int) -> dict[str, Any]:
    """What a reader of `features_message` must know: where its cells lie in the image, and what made them."""
    _, rows, cols = features.descriptors[:, ::stride_cells, ::stride_cells].shape
    height, width = features.image_size
    return {
        "extractor": features.extractor,
        "dim": features.dim,
        "rows": rows,
        "cols": cols,
        "grid": {"offset_px": list(features.grid.offset_px), "stride_px": [stride * stride_cells for stride in features.grid.stride_px]},
        "image_size": {"width": width, "height": height},
    }


def json_message(content: Mapping[str, Any]) -> String:
    """A String that holds one JSON object."""
    return String(data=json.dumps(content, allow_nan=False))
