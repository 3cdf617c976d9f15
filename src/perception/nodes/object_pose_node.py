"""The `object_pose` node: images and calibration in, poses of the known objects out."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from rclpy.lifecycle import LifecyclePublisher
from rclpy.service import Service
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from perception.core.types import Frame, PoseResult
from perception.nodes.base import CameraNode, CameraNodeConfig
from perception.nodes.messages import (
    detections_message,
    header_of,
    image_message,
    optional_messages,
    pose_array,
    pose_stamped,
    pose_status,
    pose_with_covariance,
    transform_message,
)
from perception.nodes.object_onboarding import ObjectOnboarding, OnboardConfig
from perception.nodes.qos import LARGE_RESULT_QOS, RESULT_QOS
from perception.nodes.spinning import spin
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig
from perception.viz.overlays import draw_message, draw_pose


@dataclass(frozen=True, kw_only=True)
class ObjectPoseNodeConfig(CameraNodeConfig):
    """Settings of the object_pose node beside those of its pipeline."""

    publish_overlay: bool = True
    """Publish ~/overlay when someone subscribes."""
    publish_tf: bool = True
    """Publish each object's frame on /tf, where tf2_msgs is installed."""
    database_dir: str = ""
    """Folder that gets the database of each onboarded object; empty: kept in memory only."""
    onboard: OnboardConfig = field(default_factory=OnboardConfig)


class ObjectPoseNode(CameraNode):
    """Publishes ~/pose, ~/poses, ~/objects/<name>/pose, ~/detections, ~/overlay, TF and ~/status; ~/onboard, ~/remove and ~/reset are services."""

    default_name = "object_pose"
    node_config = ObjectPoseNodeConfig
    pipeline_config = OneShotPoseConfig
    running_parameters = (*CameraNode.running_parameters, "publish_overlay", "publish_tf", "onboard.")
    needs_camera = True

    pipeline: OneShotPose | None = None
    _onboarding: ObjectOnboarding | None = None
    _reset_service: Service | None = None
    _last: PoseResult | None = None

    def make_pipeline(self, config: OneShotPoseConfig, features: DenseFeatures) -> OneShotPose:
        """The pipeline with its databases loaded; tests put a quick one here."""
        return OneShotPose(config, features)

    def build(self, config: OneShotPoseConfig) -> None:
        features = self.take_features(config.features)
        self.pipeline = self.make_pipeline(config, features)
        self._objects_lock = threading.Lock()
        self._object_publishers: dict[str, LifecyclePublisher] = {}
        self._pose = self.result_publisher(PoseStamped, "~/pose")
        self._poses = self.result_publisher(PoseArray, "~/poses")
        self._overlay = self.result_publisher(Image, "~/overlay", LARGE_RESULT_QOS)
        self._tf_msgs = self._optional("tf2_msgs", "frames on /tf")
        self._vision_msgs = self._optional("vision_msgs", "~/detections")
        self._tf = self.result_publisher(self._tf_msgs.TFMessage, "/tf", RESULT_QOS) if self._tf_msgs else None
        self._detections = self.result_publisher(self._vision_msgs.Detection3DArray, "~/detections") if self._vision_msgs else None
        self._objects_changed()
        self._reset_service = self.create_service(Trigger, "~/reset", self._on_reset)
        database_dir = self.settings.database_dir
        self._onboarding = ObjectOnboarding(self, self.pipeline, features, lambda: self.settings.onboard, database_dir, self._objects_changed)

    def release(self) -> None:
        if self._onboarding is not None:
            self._onboarding.close()
        if self._reset_service is not None:
            self.destroy_service(self._reset_service)
        self._onboarding, self._reset_service, self.pipeline, self._last = None, None, None, None

    def describe(self) -> Mapping[str, str]:
        pipeline, last = self.pipeline, self._last
        figures = {"objects": ", ".join(pipeline.object_names) if pipeline else ""}
        if last is not None:
            figures |= {f"inliers {estimate.object_name}": str(estimate.num_inliers) for estimate in last.estimates}
            figures |= {f"no pose {miss.object_name}": miss.reason for miss in last.misses}
        return figures

    def process(self, frame: Frame) -> Mapping[str, Any]:
        assert self.pipeline is not None
        result: PoseResult = self.timed(self.pipeline.step, frame)
        self._last = result
        header = header_of(result.time_ns, result.frame_id)
        if result.estimates:
            best = max(result.estimates, key=lambda estimate: estimate.score)
            self._pose.publish(pose_stamped(best.camera_from_object, header))
        self._poses.publish(pose_array(result.estimates, header))
        with self._objects_lock:
            for estimate in result.estimates:
                if estimate.object_name in self._object_publishers:  # it may have been removed while the step ran
                    self._object_publishers[estimate.object_name].publish(pose_with_covariance(estimate, header))
        self._publish_optional(result, header)
        if self.settings.publish_overlay and self._overlay.get_subscription_count():
            self._overlay.publish(image_message(overlay(frame, result), "rgb8", header))
        return pose_status(result)

    def _publish_optional(self, result: PoseResult, header: Header) -> None:
        if self._tf is not None and self.settings.publish_tf and result.estimates:
            assert self._tf_msgs is not None
            self._tf.publish(self._tf_msgs.TFMessage(transforms=[transform_message(estimate, header) for estimate in result.estimates]))
        if self._detections is not None:
            assert self._vision_msgs is not None
            self._detections.publish(detections_message(self._vision_msgs, result.estimates, header))

    def _optional(self, package: str, loses: str) -> Any:
        messages = optional_messages(package)
        if messages is None:
            self.get_logger().info(f"{package} is not installed: {loses} will not be published, all else will")
        return messages

    def _objects_changed(self) -> None:
        """One pose topic for each known object, there before its first pose, so that no subscriber misses it."""
        assert self.pipeline is not None
        names = self.pipeline.object_names
        with self._objects_lock:
            for name in [known for known in self._object_publishers if known not in names]:
                self.drop_publisher(self._object_publishers.pop(name))
            for name in [name for name in names if name not in self._object_publishers]:
                self._object_publishers[name] = self.result_publisher(PoseWithCovarianceStamped, f"~/objects/{name}/pose")

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.pipeline is not None:
            self.pipeline.reset()
        response.success, response.message = True, "last poses forgotten; the objects stay"
        return response


def overlay(frame: Frame, result: PoseResult) -> np.ndarray:
    """The image with all poses drawn in, or with the reasons why there are none."""
    assert frame.camera is not None
    image = frame.image
    for estimate in result.estimates:
        image = draw_pose(image, estimate, frame.camera)
    if not result.estimates:
        reasons = [f"{miss.object_name}: {miss.reason}" for miss in result.misses]
        image = draw_message(image, "; ".join(reasons) or "no object is known: call ~/onboard or set databases")
    return image


def main(args: Sequence[str] | None = None) -> int:
    """Run one object_pose node; ROS arguments as usual."""
    return spin(lambda: [ObjectPoseNode()], args)


if __name__ == "__main__":
    raise SystemExit(main())
