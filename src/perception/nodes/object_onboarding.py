"""The services `~/onboard` and `~/remove`: objects come and go while images keep flowing with the objects known so far."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from perception.core.config import Checked, Range
from perception.core.errors import PerceptionError
from perception.core.timing import Stopwatch
from perception.pipelines.adaptation import AdaptationConfig, build_adapted_database
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.object_database import ObjectDatabase, checked_object_name
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.rendering.reference_sources import ReferenceConfig, ReferenceSource, open_references


@dataclass(frozen=True, kw_only=True)
class OnboardConfig(Checked):
    """Which object `~/onboard` learns and from what."""

    name: str = ""
    """Name of the object for ~/onboard and ~/remove."""
    source: str = ""
    """Where its reference views are: a folder of posed frames, a bag with poses, or a mesh."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    adapt: Annotated[int, Range(0, 10_000)] = 0
    """Iterations that adapt the features to the object before it is learnt; 0: none. Refused adapters leave the object without one."""
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    database: OnboardingConfig = field(default_factory=OnboardingConfig)


class ObjectPipeline(Protocol):
    """What onboarding needs of `OneShotPose`."""

    @property
    def object_names(self) -> tuple[str, ...]: ...

    def add_object(self, database: ObjectDatabase) -> None: ...

    def remove_object(self, name: str) -> None: ...


class Cancelled(PerceptionError):
    """The node is being cleaned up."""


class ObjectOnboarding:
    """Both services of one node. Building a database takes its time: it holds up neither images nor other services, because the services
    have a callback group, and so a thread of the executor, of their own.
    """

    def __init__(
        self,
        node: Node,
        pipeline: ObjectPipeline,
        features: DenseFeatures,
        settings: Callable[[], OnboardConfig],
        database_dir: str,
        objects_changed: Callable[[], None],
    ) -> None:
        """`settings` is asked for each call. `database_dir` ("" for none) gets each new database."""
        self._node, self._pipeline, self._features, self._settings = node, pipeline, features, settings
        self._database_dir, self._objects_changed = database_dir, objects_changed
        self._cancelled = threading.Event()
        self._busy = threading.Lock()
        group = MutuallyExclusiveCallbackGroup()
        self._services = [
            node.create_service(Trigger, "~/onboard", self._on_onboard, callback_group=group),
            node.create_service(Trigger, "~/remove", self._on_remove, callback_group=group),
        ]

    def close(self) -> None:
        """Break off an onboarding in work, wait for its end and give the services back."""
        self._cancelled.set()
        with self._busy:
            for service in self._services:
                self._node.destroy_service(service)
            self._services = []

    def _on_onboard(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, self._onboard, "onboard")

    def _on_remove(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, self._remove, "remove")

    def _answer(self, response: Trigger.Response, action: Callable[[], str], name: str) -> Trigger.Response:
        with self._busy:
            try:
                response.success, response.message = True, action()
                self._node.get_logger().info(response.message)
            except Exception as error:  # an exception that leaves a callback ends the executor
                text = str(error) if isinstance(error, PerceptionError) else f"{type(error).__name__}: {error}"
                response.success, response.message = False, f"{name}: {text}"
                self._node.get_logger().error(response.message)
        return response

    def _onboard(self) -> str:
        settings = self._settings()
        missing = [f"onboard.{key}" for key in ("name", "source") if not getattr(settings, key)]
        if missing:
            raise PerceptionError(f"parameter(s) {', '.join(missing)} are empty: set the object's name and where its reference views are")
        checked_object_name(settings.name)
        watch = Stopwatch()
        source = open_references(settings.source, settings.reference)
        self._node.get_logger().info(f"onboarding {settings.name!r} from {len(source)} views of {settings.source} ({source.kind})")
        database = self._built(settings, source)
        saved = ""
        if self._database_dir:
            path = database.save(Path(self._database_dir).expanduser() / f"{settings.name}.safetensors")
            saved = f", saved as {path}"
        self._pipeline.add_object(database)
        self._objects_changed()
        adapted = f"; {database.provenance['adaptation']['summary']}" if settings.adapt else ""
        return f"object {settings.name!r}: {len(database.points)} points from {database.num_views} views in {watch.lap():.1f} s{saved}{adapted}"

    def _built(self, settings: OnboardConfig, source: ReferenceSource) -> ObjectDatabase:
        name, database = settings.name, settings.database
        if not settings.adapt:
            return build_database(name, source, self._features, database, self._progress, settings.source)
        return build_adapted_database(name, source, self._features, settings.adapt, settings.adaptation, database, self._progress, settings.source)

    def _remove(self) -> str:
        name = self._settings().name
        if not name:
            raise PerceptionError("parameter onboard.name is empty: set the name of the object to remove")
        self._pipeline.remove_object(name)
        self._objects_changed()
        return f"object {name!r} removed; known: {', '.join(self._pipeline.object_names) or 'none'}"

    def _progress(self, _done: int, _total: int) -> None:
        if self._cancelled.is_set():
            raise Cancelled("broken off, because the node is being cleaned up")
