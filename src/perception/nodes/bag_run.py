"""A bag through running nodes and what they say into another bag: processes, lifecycle, player and recorder in one place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from perception.core.errors import NodeError
from perception.nodes.lifecycle_client import LifecycleClient, call_service
from perception.nodes.player import Player, PlayerConfig, PlaySummary
from perception.nodes.processes import NodeProcess, reserved_domain, ros_environment
from perception.nodes.recorder import Recorder
from perception.nodes.session import RosSession

MODULES = {"features": "perception.nodes.features_node", "object_pose": "perception.nodes.object_pose_node"}
CONFIGURE_TIMEOUT_S = 120.0
ONBOARD_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class NodeSpec:
    """One node to start: its name is `features` or `object_pose`, parameters are nested as in a parameter file."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedRun:
    """What came of a play: the bag that was recorded, messages in it for each topic, and what was played."""

    bag: Path
    num_recorded: dict[str, int]
    played: PlaySummary


def threads_for_each(num_processes: int) -> int:
    """Threads of torch in each of several processes that work at the same time. More of them than cores is far slower: they wait for each other."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, num_cores // num_processes)


class NodeRun:
    """Nodes as processes in a ROS domain of their own; `with NodeRun(...) as run: run.configure(); run.activate(); run.play(...)`."""

    def __init__(self, folder: Path, specs: Sequence[NodeSpec], image_topic: str, camera_info_topic: str, domain_id: int | None = None) -> None:
        """`folder` gets logs and parameter files. Time is simulated: the nodes take it from the player."""
        self.folder, self.specs = Path(folder), tuple(specs)
        self.image_topic, self.camera_info_topic, self._domain_id = image_topic, camera_info_topic, domain_id
        self._processes: list[NodeProcess] = []

    def __enter__(self) -> NodeRun:
        with ExitStack() as stack:
            self.domain_id = stack.enter_context(reserved_domain(self._domain_id))
            environment = ros_environment(self.domain_id)
            self._session = stack.enter_context(RosSession("perception_run", environment))
            node_environment = {**environment, "OMP_NUM_THREADS": str(threads_for_each(len(self.specs)))}
            self._processes = [stack.enter_context(self._start(spec, node_environment)) for spec in self.specs]
            self._clients = {
                spec.name: LifecycleClient(self._session.node, spec.name, timeout_s=CONFIGURE_TIMEOUT_S, while_waiting=self.check)
                for spec in self.specs
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, spec: NodeSpec, environment: dict[str, str]) -> NodeProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        params_file = self.folder / f"{spec.name}.yaml"
        params_file.write_text(yaml.safe_dump({spec.name: {"ros__parameters": {"use_sim_time": True, **spec.parameters}}}, sort_keys=False))
        remap = ("-r", f"image:={self.image_topic}", "-r", f"camera_info:={self.camera_info_topic}")
        return NodeProcess(MODULES[spec.name], self.folder / f"{spec.name}.log", environment, arguments=remap, params_file=params_file)

    def check(self) -> None:
        """Raise when a node has ended by itself."""
        for process in self._processes:
            process.check()
        self._session.check()

    def configure(self) -> None:
        """All nodes load what they need. A refusal comes with the tail of the node's log."""
        self._all("configure")

    def activate(self) -> None:
        """All nodes start to listen to the camera."""
        self._all("activate")

    def _all(self, transition: str) -> None:
        for (name, client), process in zip(self._clients.items(), self._processes, strict=True):
            try:
                getattr(client, transition)()
            except NodeError as error:
                self.check()
                raise NodeError(f"{error}; end of {process.log_path} ({name}):\n{process.log_tail()}") from error

    def onboard(self, name: str, source: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Have `object_pose` learn an object through its `~/onboard` service; returns what it says. Raises NodeError when it refuses."""
        self.set_parameters("object_pose", {"onboard.name": name, "onboard.source": source, **(parameters or {})})
        client: Client = self._session.node.create_client(Trigger, "/object_pose/onboard")
        response = call_service(client, Trigger.Request(), ONBOARD_TIMEOUT_S, self.check)
        self._session.node.destroy_client(client)
        if not response.success:
            raise NodeError(f"/object_pose/onboard: {response.message}")
        return response.message

    def set_parameters(self, node_name: str, values: Mapping[str, Any]) -> None:
        """Set parameters of a running node; raises NodeError with the node's reason when it refuses one."""
        client: Client = self._session.node.create_client(SetParameters, f"/{node_name}/set_parameters")
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        response = call_service(client, request, CONFIGURE_TIMEOUT_S, self.check)
        self._session.node.destroy_client(client)
        for name, result in zip(values, response.results, strict=True):
            if not result.successful:
                raise NodeError(f"/{node_name}: parameter {name} was refused: {result.reason}")

    def play(
        self,
        bag: Path,
        recording: Path,
        *,
        played_topics: Sequence[str],
        recorded_topics: Sequence[str],
        config: PlayerConfig | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> RecordedRun:
        """Play `bag` to the active nodes and record into the bag folder `recording` (MCAP; an older one is replaced)."""
        node, statuses = self._session.node, [f"/{spec.name}/status" for spec in self.specs]
        # Every node listens to the image, and so does the recorder, which takes in all that is played.
        num_listeners = {self.image_topic: len(self.specs) + (self.image_topic in recorded_topics)}
        if self.camera_info_topic in played_topics:
            num_listeners[self.camera_info_topic] = len(self.specs) + (self.camera_info_topic in recorded_topics)
        with (
            Player(node, bag, config, image_topic=self.image_topic, topics=played_topics, status_topics=statuses, while_waiting=self.check) as player,
            Recorder(node, recording, recorded_topics, player.now_ns, overwrite=True) as recorder,
        ):
            recorder.wait_for_publishers(20.0, self.check)
            player.wait_for_nodes(num_listeners)
            played = player.play(progress)
            recorder.wait_until_quiet()
            num_recorded = recorder.stop()
        return RecordedRun(Path(recording), num_recorded, played)
