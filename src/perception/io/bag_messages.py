"""Messages for bags, built from plain arguments with rosbags' own types (no ROS installation needed)."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3, so3
from perception.io import ros_images

IMAGE, COMPRESSED_IMAGE, CAMERA_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
POSE_STAMPED, POSE_WITH_COVARIANCE_STAMPED = "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/PoseWithCovarianceStamped"
ODOMETRY, TRANSFORMS, STRING = "nav_msgs/msg/Odometry", "tf2_msgs/msg/TFMessage", "std_msgs/msg/String"


@cache
def typestore() -> Any:
    """The message types of ROS 2 Jazzy; later distributions read them alike."""
    return get_typestore(Stores.ROS2_JAZZY)


def _type(name: str) -> Any:
    return typestore().types[name]


def header(time_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    stamp = _type("builtin_interfaces/msg/Time")(sec=time_ns // 1_000_000_000, nanosec=time_ns % 1_000_000_000)
    return _type("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id)


def image(time_ns: int, array: NDArray, encoding: str, frame_id: str = "") -> Any:
    """sensor_msgs/Image of (height, width) or (height, width, channels) pixels that are already in `encoding`."""
    pixels = np.ascontiguousarray(array)
    message = _type(IMAGE)(
        header=header(time_ns, frame_id),
        height=pixels.shape[0] * 2 // 3 if encoding in ("nv12", "nv21") else pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(pixels.dtype.byteorder == ">"),
        step=pixels.strides[0],
        data=pixels.view(np.uint8).reshape(-1),
    )
    if ros_images.image_to_array(message).shape != pixels.shape:
        raise InputError(f"array of shape {pixels.shape} and type {pixels.dtype} is not an image in {encoding}")
    return message


def compressed_image(time_ns: int, array: NDArray, codec: str = "jpeg", frame_id: str = "", quality: int = 90) -> Any:
    """sensor_msgs/CompressedImage of an RGB image (jpeg, png) or of 16-bit depth (png)."""
    if codec not in ("jpeg", "png"):
        raise InputError(f"codec {codec!r}: must be jpeg or png")
    is_colour = array.ndim == 3
    pixels = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if is_colour else array
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if codec == "jpeg" else []
    _, data = cv2.imencode("." + codec, pixels, settings)
    text = f"rgb8; {codec} compressed bgr8" if is_colour else f"{'mono8' if array.dtype == np.uint8 else '16UC1'}; {codec} compressed"
    return _type(COMPRESSED_IMAGE)(header=header(time_ns, frame_id), format=text, data=data.reshape(-1))


def camera_info(time_ns: int, camera: Camera, frame_id: str = "") -> Any:
    """sensor_msgs/CameraInfo."""
    region = _type("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _type(CAMERA_INFO)(
        header=header(time_ns, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob" if camera.distortion_model == "none" else camera.distortion_model,
        d=np.array(camera.distortion or (0.0,) * 5),
        k=camera.matrix.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([camera.matrix, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def _quaternion(rotation: NDArray) -> Any:
    x, y, z, w = (float(value) for value in so3.to_quaternion_xyzw(np.asarray(rotation, np.float64)))
    return _type("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)


def _pose(parent_from_child: NDArray) -> Any:
    x, y, z = (float(value) for value in parent_from_child[:3, 3])
    return _type("geometry_msgs/msg/Pose")(
        position=_type("geometry_msgs/msg/Point")(x=x, y=y, z=z), orientation=_quaternion(parent_from_child[:3, :3])
    )


def pose_stamped(time_ns: int, parent_from_child: NDArray, frame_id: str) -> Any:
    """geometry_msgs/PoseStamped; `frame_id` names the parent."""
    return _type(POSE_STAMPED)(header=header(time_ns, frame_id), pose=_pose(parent_from_child))


def odometry(time_ns: int, parent_from_child: NDArray, frame_id: str, child_frame_id: str) -> Any:
    """nav_msgs/Odometry without covariances and velocities."""
    zero = _type("geometry_msgs/msg/Vector3")(x=0.0, y=0.0, z=0.0)
    twist = _type("geometry_msgs/msg/TwistWithCovariance")(twist=_type("geometry_msgs/msg/Twist")(linear=zero, angular=zero), covariance=np.zeros(36))
    pose = _type("geometry_msgs/msg/PoseWithCovariance")(pose=_pose(parent_from_child), covariance=np.zeros(36))
    return _type(ODOMETRY)(header=header(time_ns, frame_id), child_frame_id=child_frame_id, pose=pose, twist=twist)


def transforms(time_ns: int, parent_from_child: NDArray, frame_id: str, child_frame_id: str) -> Any:
    """tf2_msgs/TFMessage with one transform."""
    x, y, z = (float(value) for value in parent_from_child[:3, 3])
    transform = _type("geometry_msgs/msg/Transform")(
        translation=_type("geometry_msgs/msg/Vector3")(x=x, y=y, z=z), rotation=_quaternion(parent_from_child[:3, :3])
    )
    stamped = _type("geometry_msgs/msg/TransformStamped")(header=header(time_ns, frame_id), child_frame_id=child_frame_id, transform=transform)
    return _type(TRANSFORMS)(transforms=[stamped])


def string(text: str) -> Any:
    """std_msgs/String."""
    return _type(STRING)(data=text)


def matrix_from(position: Any, orientation: Any) -> NDArray[np.float64]:
    """(4, 4) of a message's position and quaternion. Raises InputError when the quaternion has no length or a value is not finite."""
    quaternion = np.array([orientation.x, orientation.y, orientation.z, orientation.w])
    translation = np.array([position.x, position.y, position.z])
    if not (np.isfinite(quaternion).all() and np.isfinite(translation).all()) or np.linalg.norm(quaternion) < 1e-6:
        raise InputError(
            f"pose with position {translation.tolist()} and quaternion {quaternion.tolist()}: must be finite, with a quaternion of length 1"
        )
    return se3.from_rotation_translation(so3.from_quaternion_xyzw(quaternion), translation)
