"""Config classes as ROS parameters: descriptors, overrides from files, errors in the config's own words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from tests.support.ros import RosHarness

from perception.core.config import Checked, Range, from_mapping
from perception.core.errors import ConfigError
from perception.nodes.parameters import Parameters

pytestmark = pytest.mark.ros


@dataclass(frozen=True, kw_only=True)
class Inner(Checked):
    """Inner."""

    min_score: Annotated[float, Range(0.0, 1.0, "cosine")] = 0.2
    """Drop matches below this similarity."""
    num_words: Annotated[int, Range(1, None)] = 4
    """Words."""


@dataclass(frozen=True, kw_only=True)
class Outer(Checked):
    """Outer."""

    mode: Literal["fast", "exact"] = "fast"
    """How."""
    paths: tuple[str, ...] = ()
    """Files."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    flag: bool = False
    """Flag."""
    inner: Inner = field(default_factory=Inner)


def make(tmp_path: Path, yaml: str = "", **options: tuple[str, ...]) -> tuple[Node, Parameters]:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n" + yaml)
    node = Node("matcher", cli_args=["--ros-args", "--params-file", str(file)] if yaml else [])
    return node, Parameters(node, [Outer], **options)


def test_defaults_and_descriptors(ros: RosHarness, tmp_path: Path) -> None:
    node, parameters = make(tmp_path, read_only=("flag",))
    assert parameters.config(Outer) == Outer()
    assert node.get_parameter("paths").type_ == Parameter.Type.STRING_ARRAY
    score = node.describe_parameter("inner.min_score")
    assert score.description == "Drop matches below this similarity."
    assert (score.floating_point_range[0].from_value, score.floating_point_range[0].to_value) == (0.0, 1.0)
    assert node.describe_parameter("inner.num_words").integer_range[0].from_value == 1
    assert node.describe_parameter("mode").additional_constraints == "one of fast, exact"
    assert node.describe_parameter("flag").read_only
    node.destroy_node()


def test_values_of_a_file_and_an_empty_list(ros: RosHarness, tmp_path: Path) -> None:
    yaml = "    mode: exact\n    paths: []\n    sizes: [3]\n    inner:\n      min_score: 1\n    use_sim_time: true\n"
    node, parameters = make(tmp_path, yaml)
    parameters.check()
    assert parameters.config(Outer) == Outer(mode="exact", sizes=(3,), inner=Inner(min_score=1.0))
    node.destroy_node()


@pytest.mark.parametrize(
    ("name", "value"), [("inner.min_score", 1.5), ("inner.num_words", 0), ("mode", "slow"), ("inner.min_score", "high"), ("sizes", ["a"])]
)
def test_the_same_words_at_the_start_at_run_time_and_from_yaml(ros: RosHarness, tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError) as expected:
        from_mapping(Outer, {name: value}, "matcher")
    override = Parameter(name, value=value)
    node = Node("matcher", parameter_overrides=[override])
    parameters = Parameters(node, [Outer])
    with pytest.raises(ConfigError) as at_start:
        parameters.check()
    assert str(at_start.value) == str(expected.value)
    assert parameters.refuse([override]).reason == str(expected.value)
    node.destroy_node()


def test_a_wrong_override_is_mended_by_setting_it(ros: RosHarness, tmp_path: Path) -> None:
    node, parameters = make(tmp_path, "    mode: slow\n")
    with pytest.raises(ConfigError, match=r"matcher\.mode = 'slow': must be one of fast, exact"):
        parameters.check()
    assert node.set_parameters([Parameter("mode", value="exact")])[0].successful
    parameters.check()
    assert parameters.config(Outer).mode == "exact"
    node.destroy_node()


def test_unknown_parameter_names_it_and_the_known_ones(ros: RosHarness, tmp_path: Path) -> None:
    node, parameters = make(tmp_path, "    inner:\n      min_scor: 0.5\n")
    with pytest.raises(
        ConfigError, match=r"unknown parameter\(s\) inner\.min_scor of node matcher; known: mode, paths, sizes, flag, inner\.min_score"
    ):
        parameters.check()
    node.destroy_node()


def test_locked_parameters_are_held_and_running_ones_change(ros: RosHarness, tmp_path: Path) -> None:
    node, parameters = make(tmp_path, running=("inner.",))
    parameters.locked = True
    refused = node.set_parameters([Parameter("mode", value="exact")])[0]
    assert not refused.successful
    assert "mode: takes effect when the node is configured" in refused.reason
    assert node.set_parameters([Parameter("inner.min_score", value=0.7)])[0].successful
    assert parameters.config(Outer).inner.min_score == 0.7
    parameters.locked = False
    assert node.set_parameters([Parameter("mode", value="exact")])[0].successful
    assert not node.set_parameters([Parameter("mode", Parameter.Type.NOT_SET)])[0].successful
    node.destroy_node()
