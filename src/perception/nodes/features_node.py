"""The `features` node: images in, maps of dense descriptors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from rclpy.service import Service
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import Trigger

from perception.core.config import Checked, Range
from perception.core.types import FeatureMap, Frame
from perception.nodes.base import CameraNode, CameraNodeConfig
from perception.nodes.messages import features_message, features_metadata, header_of, image_message, json_message, tracks_message
from perception.nodes.qos import LARGE_RESULT_QOS, LATCHED_QOS
from perception.nodes.spinning import spin
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.point_tracker import PointTracker, PointTrackerConfig
from perception.viz.pca import FeaturePca


@dataclass(frozen=True, kw_only=True)
class FeaturesNodeConfig(CameraNodeConfig):
    """Settings of the features node beside those of its pipeline."""

    publish_stride_cells: Annotated[int, Range(1, 64, "cells")] = 2
    """Only every n-th cell of the map is published, in both directions."""
    publish_features: bool = True
    """Publish ~/features when someone subscribes."""
    publish_visualization: bool = True
    """Publish ~/visualization when someone subscribes."""


@dataclass(frozen=True, kw_only=True)
class TracksConfig(Checked):
    """Tracking of a grid of points from the first frame on."""

    enabled: bool = False
    """Track points and publish them on ~/tracks."""
    grid_px: Annotated[int, Range(4, 4096, "px")] = 48
    """Distance of the points in the first frame."""
    tracker: PointTrackerConfig = field(default_factory=PointTrackerConfig)


@dataclass(frozen=True, kw_only=True)
class FeaturesPipelineConfig(Checked):
    """What the features node runs."""

    features: DenseFeaturesConfig = field(default_factory=DenseFeaturesConfig)
    tracks: TracksConfig = TracksConfig()


class FeaturesNode(CameraNode):
    """Publishes ~/features (32FC<dim>), ~/metadata (latched JSON), ~/visualization (PCA colours), ~/tracks and ~/status."""

    default_name = "features"
    node_config = FeaturesNodeConfig
    pipeline_config = FeaturesPipelineConfig
    running_parameters = (*CameraNode.running_parameters, "publish_stride_cells", "publish_features", "publish_visualization")
    needs_camera = False

    features: DenseFeatures | None = None
    _tracker: PointTracker | None = None
    _pca: FeaturePca | None = None
    _reset_service: Service | None = None
    _published_metadata: dict[str, Any] | None = None
    _tracker_started = False
    _reset_asked = False

    def build(self, config: FeaturesPipelineConfig) -> None:
        self._config = config
        self.features = self.take_features(config.features)
        self._tracker = PointTracker(config.tracks.tracker, self.features) if config.tracks.enabled else None
        self._maps = self.result_publisher(Image, "~/features", LARGE_RESULT_QOS)
        self._metadata = self.result_publisher(String, "~/metadata", LATCHED_QOS)
        self._pictures = self.result_publisher(Image, "~/visualization", LARGE_RESULT_QOS)
        self._tracks = self.result_publisher(PointCloud2, "~/tracks", LARGE_RESULT_QOS) if self._tracker else None
        self._reset_service = self.create_service(Trigger, "~/reset", self._on_reset)
        self._forget()

    def release(self) -> None:
        if self._reset_service is not None:
            self.destroy_service(self._reset_service)
        self.features, self._tracker, self._pca, self._reset_service = None, None, None, None

    def describe(self) -> Mapping[str, str]:
        return {"extractor": self.features.name if self.features else ""}

    def process(self, frame: Frame) -> Mapping[str, Any]:
        assert self.features is not None
        if self._reset_asked:
            self._forget()
        features = self.timed(self.features.step, frame)
        header = header_of(frame.time_ns, frame.frame_id)
        stride = self.settings.publish_stride_cells
        metadata = features_metadata(features, stride)
        if metadata != self._published_metadata:
            self._metadata.publish(json_message(metadata))
            self._published_metadata = metadata
        if self.settings.publish_features and self._maps.get_subscription_count():
            self._maps.publish(features_message(features, stride, header))
        if self.settings.publish_visualization and self._pictures.get_subscription_count():
            self._pictures.publish(image_message(self._colors(features), "rgb8", header))
        if self._tracker is not None and self._tracks is not None:
            if not self._tracker_started:
                self._tracker.start(frame, grid_points(features.image_size, self._config.tracks.grid_px))
                self._tracker_started = True
            self._tracks.publish(tracks_message(self._tracker.step(frame), header))
        return {}

    def _colors(self, features: FeatureMap) -> np.ndarray:
        if self._pca is None:
            self._pca = FeaturePca()
        if not self._pca.is_fitted:
            self._pca.fit([features])
        return self._pca.colorize(features)

    def _forget(self) -> None:
        self._pca, self._published_metadata, self._tracker_started, self._reset_asked = None, None, False, False

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The worker does it before its next frame: it alone touches the tracker.
        self._reset_asked = True
        response.success, response.message = True, "colours and tracks start anew with the next frame"
        return response


def grid_points(image_size: tuple[int, int], distance_px: int) -> np.ndarray:
    """(num, 2) float32 pixels in rows, half a distance from the border."""
    height, width = image_size
    xs, ys = np.meshgrid(np.arange(distance_px // 2, width, distance_px), np.arange(distance_px // 2, height, distance_px))
    return np.stack([xs.ravel(), ys.ravel()], axis=1).astype(np.float32)


def main(args: Sequence[str] | None = None) -> int:
    """Run one features node; ROS arguments as usual."""
    return spin(lambda: [FeaturesNode()], args)


if __name__ == "__main__":
    raise SystemExit(main())
