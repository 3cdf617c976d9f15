"""One typed definition: YAML, dotted keys, ranges, unknown keys, help texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from perception.core.config import Checked, Range, from_mapping, leaves, load_yaml, to_mapping
from perception.core.errors import ConfigError, PerceptionError, unknown_name
from perception.pipelines.dense_features import DenseFeaturesConfig
from perception.pipelines.one_shot_pose import OneShotPoseConfig


@dataclass(frozen=True, kw_only=True)
class InnerConfig(Checked):
    """The inside."""

    threshold: Annotated[float, Range(0.0, 1.0, "cosine")] = 0.2
    """Drop what is below."""
    mode: Literal["fast", "exact"] = "fast"
    """How it is done."""


@dataclass(frozen=True, kw_only=True)
class OuterConfig(Checked):
    """The outside."""

    name: str
    """What it is called."""
    count: Annotated[int, Range(1, None)] = 3
    """How many."""
    enabled: bool = True
    """Whether at all."""
    size: tuple[int, int] = (640, 480)
    """Width and height."""
    sources: tuple[str, ...] = ()
    """Where from."""
    inner: InnerConfig = field(default_factory=InnerConfig)


def test_nested_and_dotted_keys_mean_the_same():
    nested = from_mapping(OuterConfig, {"name": "a", "inner": {"threshold": 0.5, "mode": "exact"}})
    dotted = from_mapping(OuterConfig, {"name": "a", "inner.threshold": 0.5, "inner.mode": "exact"})
    mixed = from_mapping(OuterConfig, {"inner.threshold": 0.5, "name": "a", "inner": {"mode": "exact"}})
    assert nested == dotted == mixed
    assert from_mapping(OuterConfig, to_mapping(nested)) == nested


def test_values_are_converted_to_the_declared_types():
    config = OuterConfig(name=Path("/a"), size=[4, 5], sources=["x"], inner=InnerConfig(threshold=1))
    assert (config.name, config.size, config.sources) == ("/a", (4, 5), ("x",))
    assert isinstance(config.inner.threshold, float)
    assert to_mapping(config)["size"] == [4, 5]


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"inner.threshold": 1.5}, ["OuterConfig.inner.threshold = 1.5", "[0, 1] cosine"]),
        ({"inner.threshold": float("nan")}, ["OuterConfig.inner.threshold = nan", "must be a number"]),
        ({"inner.mode": "slow"}, ["OuterConfig.inner.mode = 'slow'", "fast, exact"]),
        ({"inner": 3}, ["OuterConfig.inner = 3", "threshold"]),
        ({"inner.treshold": 0.1}, ["OuterConfig.inner", "treshold", "threshold"]),
        ({"cuont": 1}, ["OuterConfig", "cuont", "count"]),
        ({"count": 0}, ["OuterConfig.count = 0", "[1, inf]"]),
        ({"count": 1.5}, ["OuterConfig.count = 1.5", "type int"]),
        ({"count": True}, ["OuterConfig.count = True", "type int"]),
        ({"enabled": 1}, ["OuterConfig.enabled = 1", "type bool"]),
        ({"size": [1, 2, 3]}, ["OuterConfig.size = [1, 2, 3]", "2 values"]),
        ({"size": "12"}, ["OuterConfig.size = '12'", "list of int"]),
        ({"sources": [1]}, ["OuterConfig.sources[0] = 1", "type str"]),
    ],
)
def test_errors_say_where_what_and_what_is_allowed(mapping, parts):
    with pytest.raises(ConfigError) as raised:
        from_mapping(OuterConfig, {"name": "a", **mapping})
    for part in parts:
        assert part in str(raised.value)
    assert isinstance(raised.value, PerceptionError)
    assert isinstance(raised.value, ValueError)


def test_a_missing_required_setting_is_a_config_error():
    with pytest.raises(ConfigError, match=r"OuterConfig.*name"):
        from_mapping(OuterConfig, {"count": 2})


def test_a_dotted_key_below_a_plain_value_is_a_config_error():
    with pytest.raises(ConfigError):
        from_mapping(OuterConfig, {"name": "a", "inner": 3, "inner.threshold": 0.5})


def test_a_config_made_directly_is_checked_too():
    with pytest.raises(ConfigError, match=r"InnerConfig\.threshold = -1\.0"):
        InnerConfig(threshold=-1.0)
    with pytest.raises(ConfigError, match="must be a InnerConfig"):
        OuterConfig(name="a", inner={"threshold": 0.1})


def test_yaml_files(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: a\ninner:\n  threshold: 0.75\n")
    assert load_yaml(OuterConfig, path).inner.threshold == 0.75
    path.write_text("name: a\ninner:\n  threshold: 7\n")
    with pytest.raises(ConfigError, match=r"config\.yaml\.inner\.threshold = 7\.0"):
        load_yaml(OuterConfig, path)
    for text, message in (("- 1\n", "must hold a mapping"), ("a: [", "not valid YAML"), ("", "name")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_yaml(OuterConfig, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(OuterConfig, tmp_path / "absent.yaml")


def test_leaves_carry_names_defaults_ranges_choices_and_help():
    found = {leaf.name: leaf for leaf in leaves(OuterConfig)}
    assert list(found) == ["name", "count", "enabled", "size", "sources", "inner.threshold", "inner.mode"]
    assert found["inner.threshold"].help == "Drop what is below."
    assert found["inner.threshold"].range == Range(0.0, 1.0, "cosine")
    assert found["inner.mode"].choices == ("fast", "exact")
    assert (found["count"].default, found["name"].default) == (3, None)


def test_unknown_names_list_the_known_ones():
    assert str(unknown_name("features.extractor", "sfit", ["sift", "dino"])) == "features.extractor = 'sfit': unknown; known: dino, sift"


def test_a_config_that_is_held_keeps_the_defaults_that_its_holder_gave_it():
    assert from_mapping(OneShotPoseConfig, {}).features.extractor == "dense_sift"
    changed = from_mapping(OneShotPoseConfig, {"features": {"sift_size_px": 8.0}})
    assert (changed.features.extractor, changed.features.sift_size_px) == ("dense_sift", 8.0)
    assert from_mapping(DenseFeaturesConfig, {}).extractor == "nano"
    defaults = {leaf.name: leaf.default for leaf in leaves(OneShotPoseConfig)}
    assert defaults["features.extractor"] == "dense_sift"
    assert defaults["features.backend"] == "auto"
