"""What the camera nodes have in common: lifecycle, parameters, one worker, diagnostics and status."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from perception.core.config import Checked
from perception.core.errors import InputError, PerceptionError
from perception.core.types import Frame
from perception.models.extractor import resolve_device
from perception.nodes.camera_input import Arrival, CameraInput, InputLimits
from perception.nodes.diagnostics import Diagnostics
from perception.nodes.messages import json_message
from perception.nodes.parameters import Parameters
from perception.nodes.qos import RESULT_QOS, ImageQosConfig
from perception.nodes.worker import LatestWorker
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.shared import release_features, shared_features

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class CameraNodeConfig(InputLimits):
    """Settings that every camera node has."""

    image: ImageQosConfig = field(default_factory=ImageQosConfig)
    """How images are subscribed to."""
    autostart: bool = False
    """Configure and activate without being asked, as soon as the node runs."""


class CameraNode(LifecycleNode, ABC):
    """A lifecycle node that works on the newest frame of one camera.

    Subclasses name their config classes and fill `build`, `process` and `release`. While it is not active the node holds no subscription and does
    no work; after cleanup it holds no model.
    """

    default_name: ClassVar[str]
    node_config: ClassVar[type[CameraNodeConfig]]
    pipeline_config: ClassVar[type[Checked]]
    running_parameters: ClassVar[tuple[str, ...]] = ("max_rate_hz", "max_image_pixels")
    needs_camera: ClassVar[bool]

    def __init__(self, name: str | None = None, **node_arguments: Any) -> None:
        super().__init__(name or self.default_name, **node_arguments)
        classes = (self.node_config, self.pipeline_config)
        self.parameters = Parameters(self, classes, running=self.running_parameters, read_only=("autostart",))
        self.parameters.on_change = self._read_settings
        self.settings: Any = None
        self.diagnostics = Diagnostics(self, self._describe)
        self._results: list[LifecyclePublisher] = []
        self._features_config: DenseFeaturesConfig | None = None
        self._input: CameraInput | None = None
        self._worker: LatestWorker[Arrival] | None = None
        self._autostart_timer = None
        if self.get_parameter("autostart").value:
            clock = Clock(clock_type=ClockType.STEADY_TIME)
            self._autostart_timer = self.create_timer(0.0, self._autostart, MutuallyExclusiveCallbackGroup(), clock=clock)

    # -- what a subclass fills -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self, config: Any) -> None:
        """Load models and make publishers and services. Raises PerceptionError for what the user can mend."""

    @abstractmethod
    def process(self, frame: Frame) -> Mapping[str, Any]:
        """Run the pipeline, publish its results, return what the status says beside times; runs in the worker's thread."""

    @abstractmethod
    def release(self) -> None:
        """Let go of all that `build` made, also when it failed half-way."""

    def describe(self) -> Mapping[str, str]:
        """Further figures for /diagnostics."""
        return {}

    # -- tools for subclasses --------------------------------------------------------------------------------------------------------------

    def take_features(self, config: DenseFeaturesConfig) -> DenseFeatures:
        """The features that the process shares, given back in cleanup."""
        features = self.make_features(config)
        self._features_config = config
        return features

    def make_features(self, config: DenseFeaturesConfig) -> DenseFeatures:
        """Where the features come from; tests put a small one here."""
        return shared_features(config)

    def free_features(self, config: DenseFeaturesConfig) -> None:
        """The counterpart of `make_features`."""
        release_features(config)

    def result_publisher(self, kind: type, topic: str, qos: QoSProfile = RESULT_QOS) -> LifecyclePublisher:
        """A publisher that is silent unless the node is active and is given back in cleanup."""
        publisher: LifecyclePublisher = self.create_lifecycle_publisher(kind, topic, qos)
        self._results.append(publisher)
        if self._worker is not None:  # made while the node is active already
            publisher.on_activate(LifecycleState(state_id=State.PRIMARY_STATE_ACTIVE, label="active"))
        return publisher

    def drop_publisher(self, publisher: LifecyclePublisher) -> None:
        """Give one publisher back before cleanup."""
        self._results.remove(publisher)
        self.destroy_lifecycle_publisher(publisher)

    def timed(self, step: Callable[[Frame], Any], frame: Frame) -> Any:
        """The result of the pipeline's own step, whose duration goes into the status."""
        start = time.perf_counter()
        result = step(frame)
        self._step_s = time.perf_counter() - start
        return result

    # -- lifecycle -------------------------------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        start = time.monotonic()
        try:
            self.parameters.check()
            self.settings = self.parameters.config(self.node_config)
            self._status = self.result_publisher(String, "~/status")
            self.build(self.parameters.config(self.pipeline_config))
        except Exception as error:  # rclpy would swallow it without a word
            text = str(error) if isinstance(error, PerceptionError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot configure: {text}")
            self.diagnostics.last_error = text
            self._release_all()
            return FAILURE
        self.parameters.locked = True
        self.get_logger().info(f"configured in {time.monotonic() - start:.1f} s")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        self._worker = LatestWorker(self._work, on_drop=self._dropped, on_error=self.diagnostics.error, name=f"{self.get_name()} worker")
        self._input = CameraInput(
            self, self.settings.image, lambda: self.settings, self.diagnostics, self._worker.put, needs_camera=self.needs_camera
        )
        self.get_logger().info(f"active, waiting for images on {self._input.source}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop_work()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release_all()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop_work()
        self._release_all()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.get_logger().error("a transition failed; back to unconfigured")
        self.stop_work()
        self._release_all()
        return super().on_error(state)

    def close(self) -> None:
        """Stop all work and give everything back; for the end of the process, in any state."""
        self.stop_work()
        self._release_all()
        self.diagnostics.close()
        self.destroy_node()

    def stop_work(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None
        if self._worker is not None:
            if not self._worker.stop(STOP_TIMEOUT_S):
                self.get_logger().error(f"the step in work did not end within {STOP_TIMEOUT_S:g} s")
            self._worker = None

    def _release_all(self) -> None:
        self.release()
        if self._features_config is not None:
            self.free_features(self._features_config)
            self._features_config = None
        for publisher in self._results:
            self.destroy_lifecycle_publisher(publisher)
        self._results.clear()
        self.parameters.locked = False

    def _autostart(self) -> None:
        assert self._autostart_timer is not None
        self._autostart_timer.cancel()
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # -- parameters ------------------------------------------------------------------------------------------------------------------------

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As in rclpy, but the config's own words come before the shorter ones of the descriptor's range check."""
        refusal = self.parameters.refuse(parameter_list)
        return super().set_parameters_atomically(parameter_list) if refusal.successful else refusal

    def _read_settings(self) -> None:
        if self.parameters.locked:
            self.settings = self.parameters.config(self.node_config)

    # -- work ------------------------------------------------------------------------------------------------------------------------------

    def _dropped(self) -> None:
        self.diagnostics.statistics.count("dropped")

    def _work(self, arrival: Arrival) -> None:
        self._step_s = 0.0
        try:
            frame = arrival.frame()
            details = self.process(frame)
        except InputError as error:
            self.diagnostics.refused("content", f"frame on {arrival.source} refused: {error}")
            return
        now_s = time.monotonic()
        latency_s = now_s - arrival.arrived_s
        status = {"stamp_ns": frame.time_ns, "step_s": self._step_s, "latency_s": latency_s, **details}
        self._status.publish(json_message(_finite(status)))
        self.diagnostics.statistics.finished(latency_s, now_s)

    def _describe(self) -> Mapping[str, str]:
        config = self._features_config
        runs_on = {"backend": config.backend, "device": str(resolve_device(config.device))} if config else {}
        return {"state": self._state_machine.current_state[1], **runs_on, **self.describe()}


def _finite(value: Any) -> Any:
    """JSON has no NaN: such numbers become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
