"""A bag played through a node in lock-step and in real time, and what it answers recorded, with nothing lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from std_msgs.msg import String

from perception.core.errors import ConfigError, InputError, MissingDependencyError, NodeError
from perception.core.types import Camera
from perception.io.bags import BagReader, BagWriter
from perception.nodes.lifecycle_client import LifecycleClient, wait_until
from perception.nodes.message_types import header_stamp_ns, message_class
from perception.nodes.player import Player, PlayerConfig
from perception.nodes.processes import NodeProcess, reserved_domain, ros_environment
from perception.nodes.recorder import Recorder
from perception.nodes.session import RosSession

pytestmark = pytest.mark.ros

CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
NUM_FRAMES = 8
PERIOD_NS = 50_000_000
STAMPS = [1_700_000_000_000_000_000 + PERIOD_NS * index for index in range(NUM_FRAMES)]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "input"
    random = np.random.default_rng(0)
    with BagWriter(path, storage="sqlite3") as writer:
        writer.write_string("/once", STAMPS[0], "said once")
        for stamp in STAMPS:
            writer.write_camera_info("/camera/camera_info", stamp, CAMERA, "camera")
            writer.write_image("/camera/image_raw", stamp, random.integers(0, 255, (48, 64, 3), np.uint8), frame_id="camera")
    return path


@pytest.fixture
def session() -> Iterator[RosSession]:
    with reserved_domain() as domain, RosSession("tester", ros_environment(domain)) as session:
        yield session


def active_echo(session: RosSession, folder: Path, *arguments: str) -> NodeProcess:
    remap = ("-r", "image:=/camera/image_raw", "-p", "use_sim_time:=true", *arguments)
    process = NodeProcess("tests.support.echo_node", folder / "echo.log", session.environment, arguments=remap)
    client = LifecycleClient(session.node, "echo", timeout_s=20, while_waiting=process.check)
    client.configure()
    client.activate()
    return process


def answers(bag: Path) -> list[dict]:
    with BagReader(bag) as reader:
        return [json.loads(item.message.data) for item in reader.messages(["/echo/status"])]


def test_lock_step_answers_every_image_in_simulated_time(session: RosSession, bag: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    with (
        active_echo(session, tmp_path) as process,
        Player(session.node, bag, image_topic="/camera/image_raw", status_topics=["/echo/status"], while_waiting=process.check) as player,
        Recorder(session.node, tmp_path / "out", ["/camera/image_raw", "/camera/camera_info", "/echo/status", "/once"], player.now_ns) as recorder,
    ):
        recorder.wait_for_publishers(10, process.check)
        player.wait_for_nodes({"/camera/image_raw": 2, "/camera/camera_info": 1})
        summary = player.play(lambda *state: done.append(state))
        recorder.wait_until_quiet(0.2)
    assert summary.num_unanswered == 0
    assert summary.num_images == NUM_FRAMES
    assert done == [(index, NUM_FRAMES) for index in range(1, NUM_FRAMES + 1)]
    # The first CameraInfo is sent twice: once before the images, as if the camera had been running.
    assert recorder.counts == {"/camera/image_raw": NUM_FRAMES, "/camera/camera_info": NUM_FRAMES + 1, "/echo/status": NUM_FRAMES, "/once": 2}
    status = answers(tmp_path / "out")
    assert [item["stamp_ns"] for item in status] == STAMPS
    with BagReader(bag) as given, BagReader(tmp_path / "out") as recorded:
        images = [[bytes(item.data) for item in reader.raw_messages(["/camera/image_raw"])] for reader in (given, recorded)]
        times = [item.time_ns for item in recorded.raw_messages(["/camera/image_raw", "/echo/status"])]
    assert images[0] == images[1]
    assert set(times) == set(STAMPS)  # filed under the simulated time
    assert status[-1]["clock_ns"] in STAMPS


def test_an_image_without_answer_is_counted_and_the_play_goes_on(session: RosSession, bag: Path, tmp_path: Path) -> None:
    config = PlayerConfig(answer_timeout_s=0.5)
    with (
        active_echo(session, tmp_path, "-p", "silent_at:=3") as process,
        Player(session.node, bag, config, image_topic="/camera/image_raw", status_topics=["/echo/status"], while_waiting=process.check) as player,
    ):
        player.wait_for_nodes({"/camera/image_raw": 1})
        summary = player.play()
    assert (summary.num_images, summary.num_unanswered) == (NUM_FRAMES, 1)


def test_endless_silence_ends_the_play(session: RosSession, bag: Path) -> None:
    config = PlayerConfig(answer_timeout_s=0.05, max_unanswered_in_a_row=3)
    with (
        Player(session.node, bag, config, image_topic="/camera/image_raw", status_topics=["/echo/status"]) as player,
        pytest.raises(NodeError, match=r"3 images in a row without an answer within 0.05 s on /echo/status \(0 answers so far\)"),
    ):
        player.play()


def test_a_node_that_dies_in_mid_run_ends_the_play_at_once(session: RosSession, bag: Path, tmp_path: Path) -> None:
    with (
        active_echo(session, tmp_path, "-p", "die_at:=4") as process,
        Player(session.node, bag, image_topic="/camera/image_raw", status_topics=["/echo/status"], while_waiting=process.check) as player,
    ):
        player.wait_for_nodes({"/camera/image_raw": 1})
        begin = time.monotonic()
        with pytest.raises(NodeError, match=r"exit code 3(.|\n)*about to die"):
            player.play()
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_real_time_keeps_the_distances(session: RosSession, bag: Path, rate: float) -> None:
    with Player(session.node, bag, PlayerConfig(mode="rate", rate=rate), image_topic="/camera/image_raw") as player:
        summary = player.play()
    expected_s = (NUM_FRAMES - 1) * PERIOD_NS * 1e-9 / rate
    assert expected_s <= summary.duration_s < expected_s + 0.5
    assert player.now_ns() == STAMPS[-1]


def test_a_message_recorded_once_reaches_those_who_come_later(session: RosSession, bag: Path, tmp_path: Path) -> None:
    with Player(session.node, bag, image_topic="/camera/image_raw") as player:
        player.play()
        with Recorder(session.node, tmp_path / "late", ["/once"], player.now_ns) as recorder:
            assert wait_until(lambda: recorder.counts["/once"] > 0, 5)


def test_a_burst_is_recorded_whole(session: RosSession, tmp_path: Path) -> None:
    publisher = session.node.create_publisher(String, "/burst", 200)
    with Recorder(session.node, tmp_path / "out", ["/burst"], lambda: 5) as recorder:
        recorder.wait_for_publishers(5)
        assert wait_until(lambda: publisher.get_subscription_count() == 1, 5)
        for index in range(150):
            publisher.publish(String(data=f"{index} " + "x" * 10_000))
        recorder.wait_until_quiet()
        assert recorder.stop() == {"/burst": 150}
    with BagReader(tmp_path / "out") as reader:
        assert [int(item.message.data.split()[0]) for item in reader.messages(["/burst"])] == list(range(150))


def test_what_is_missing_is_named(session: RosSession, bag: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no topic '/other/image'(.|\n)*/camera/image_raw"):
        Player(session.node, bag, image_topic="/other/image")
    with Player(session.node, bag, image_topic="/camera/image_raw", status_topics=["/echo/status"]) as player:
        with pytest.raises(NodeError, match=r"0 of 1 subscribers of /camera/image_raw; no publisher of /echo/status"):
            player.wait_for_nodes({"/camera/image_raw": 1}, timeout_s=0.1)
        with (
            Recorder(session.node, tmp_path / "out", ["/nobody"], player.now_ns) as recorder,
            pytest.raises(NodeError, match=r"nobody publishes /nobody after 0.1 s; topics seen: .*/camera/image_raw"),
        ):
            recorder.wait_for_publishers(0.1)
    with pytest.raises(ConfigError, match=r"PlayerConfig.mode = 'fast'"):
        PlayerConfig(mode="fast")  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match="ros-no-such-msgs"):
        message_class("no_such_msgs/msg/Thing")


def test_header_stamps_are_read_in_both_byte_orders() -> None:
    little = b"\x00\x01\x00\x00" + (7).to_bytes(4, "little") + (123).to_bytes(4, "little")
    big = b"\x00\x00\x00\x00" + (7).to_bytes(4, "big") + (123).to_bytes(4, "big")
    assert header_stamp_ns(little) == header_stamp_ns(memoryview(big)) == 7_000_000_123
