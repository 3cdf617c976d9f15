"""Fixtures of the node tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")

from tests.support.ros import RosHarness, ros_context


@pytest.fixture(scope="module")
def ros_environment() -> Iterator[dict[str, str]]:
    """rclpy in a domain of its own, and the variables with which child processes join it."""
    with ros_context() as environment:
        yield environment


@pytest.fixture
def ros(ros_environment: dict[str, str]) -> Iterator[RosHarness]:
    """An executor; nodes given to `ros.add` are spun and closed."""
    harness = RosHarness(ros_environment)
    try:
        yield harness
    finally:
        harness.close()
