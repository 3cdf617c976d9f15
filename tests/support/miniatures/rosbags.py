"""Records the scene into ROS 2 bags: a camera on a moving base, seen through /tf, with registered depth."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation
from tests.support.miniatures.scene import MiniatureScene

from perception.io import bag_messages
from perception.io.bags import BagWriter, StorageName

START_NS, PERIOD_NS, DELAY_NS = 7_000_000_000, 100_000_000, 3_000_000
IMAGE, DEPTH, INFO, POSE = "/front/image_raw", "/front/depth/image_raw", "/front/camera_info", "/truth"
CAMERA_FRAME, BASE_FRAME, WORLD_FRAME = "front_optical", "base_link", "map"

BASE_FROM_CAMERA = np.eye(4)
BASE_FROM_CAMERA[:3, :3] = Rotation.from_euler("xyz", [-90, 0, -90], degrees=True).as_matrix()
BASE_FROM_CAMERA[:3, 3] = (0.2, 0.0, 0.4)


def stamp_ns(frame: int) -> int:
    """Stamp of a frame's image; it is recorded DELAY_NS later."""
    return START_NS + frame * PERIOD_NS


def write_bag(
    path: Path,
    scene: MiniatureScene,
    *,
    storage: StorageName = "mcap",
    poses: Literal["tf", "odometry", "pose", "none"] = "tf",
    with_depth: bool = True,
    compressed: bool = False,
    frames_without_pose: tuple[int, ...] = (),
) -> Path:
    """Write one bag; depth lags 2 ms behind the images, and frame 1 has none."""
    with BagWriter(path, storage, overwrite=True) as bag:
        bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        bag.write_transform(stamp_ns(0), BASE_FROM_CAMERA, BASE_FRAME, CAMERA_FRAME, "/tf_static")
        for frame in range(len(scene)):
            recorded_ns = stamp_ns(frame) + DELAY_NS
            if frame not in frames_without_pose:
                _write_pose(bag, scene, frame, poses)
            if with_depth and frame != 1:
                depth_mm = np.round(scene.depth_m[frame] * 1000).astype(np.uint16)
                depth_mm[:2] = 65535  # what depth cameras write where they saw nothing
                bag.write_message(DEPTH, bag_messages.image(stamp_ns(frame) + 2_000_000, depth_mm, "16UC1", CAMERA_FRAME), recorded_ns)
            if compressed:
                message = bag_messages.compressed_image(stamp_ns(frame), scene.images[frame], "png", CAMERA_FRAME)
                bag.write_message(IMAGE + "/compressed", message, recorded_ns)
            else:
                bgr = np.ascontiguousarray(scene.images[frame][..., ::-1])
                bag.write_message(IMAGE, bag_messages.image(stamp_ns(frame), bgr, "bgr8", CAMERA_FRAME), recorded_ns)
            bag.write_camera_info(INFO, stamp_ns(frame), scene.cameras[frame], CAMERA_FRAME)
    return path


def _write_pose(bag: BagWriter, scene: MiniatureScene, frame: int, kind: str) -> None:
    world_from_camera, time_ns = scene.world_from_camera[frame], stamp_ns(frame) + 1_000_000
    world_from_base = world_from_camera @ np.linalg.inv(BASE_FROM_CAMERA)
    if kind == "tf":
        bag.write_transform(time_ns, world_from_base, WORLD_FRAME, BASE_FRAME)
    elif kind == "odometry":
        bag.write_odometry(POSE, time_ns, world_from_base, WORLD_FRAME, BASE_FRAME)
    elif kind == "pose":
        bag.write_pose(POSE, time_ns, world_from_camera, WORLD_FRAME)
