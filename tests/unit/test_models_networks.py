"""The registry of networks, their model cards, and `perception weights`: every way in which a file can be the wrong one."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from perception.cli.main import main
from perception.core.errors import ConfigError, WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.network_files import compare, most_like
from perception.models.networks import NETWORKS, build_network, create_network, network_card, network_spec, resolve

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = "dust3r_512_linear"
"""A network with a configuration of 0.2 M numbers, and with names of its own."""


def spring(_word: str) -> None:
    """What a hostile file would call."""
    raise AssertionError("a pickle was executed")


class Trap:
    """Calls something when a pickle with it is read freely."""

    def __init__(self, function: object = spring) -> None:
        self.function = function

    def __reduce__(self) -> tuple:
        return (self.function, ("exit 1",))


def public_state(name: str = TINY, config: str = "tiny") -> dict[str, Tensor]:
    """Tensors as a public file holds them."""
    torch.manual_seed(0)
    place = network_spec(name).to_public
    state = build_network(name, config).state_dict()
    return {key: value.clone() for key, value in (resolve(place)(state) if place else state).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the tiny network in every form."""
    folder = tmp_path_factory.mktemp("weights")
    state = public_state()
    save_file(state, folder / "plain.safetensors")
    save_file({key: value.half() for key, value in state.items()}, folder / "half.safetensors")
    torch.save({"model": state, "args": argparse.Namespace(epochs=3), "best": np.float64(2)}, folder / "training.pth")
    torch.save({"model": state, "trap": Trap()}, folder / "trap.pth")
    torch.save({"model": state, "trap": Trap(os.system)}, folder / "hostile.pth")
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "parallel.pth")
    (folder / "raw.pkl").write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    names = list(state)
    shards = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: state[name] for name in part}, folder / shard)
    places = {name: shard for shard, part in shards.items() for name in part}
    (folder / "a.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def weights(*words: str | Path) -> int:
    return main(["weights", *map(str, words)])


@pytest.mark.parametrize("file", ["plain.safetensors", "half.safetensors", "parallel.pth", "a.safetensors.index.json", "."])
def test_a_file_of_the_network_fits_in_every_form(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("check", TINY, folder / file, "--config", "tiny") == 0
    printed = capsys.readouterr().out
    assert f"fits {TINY}: every name and shape" in printed
    assert ("float16; becomes float32 on loading" in printed) == ("half" in file)
    network = create_network(TINY, "tiny", folder / file)
    assert not network.training
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert torch.allclose(network.state_dict()["encoder.enc_norm.weight"], load_file(folder / "plain.safetensors")["enc_norm.weight"], atol=1e-3)


def test_checking_says_what_differs_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = public_state()
    del state["dec_norm.weight"], state["mask_token"]
    state["decoder_embed.weight"] = torch.zeros(7, 7)
    state["enc_norm.bias"] = state["enc_norm.bias"].long()
    state["surplus"] = torch.zeros(3)
    save_file(state, tmp_path / "x.safetensors")
    assert weights("check", TINY, tmp_path / "x.safetensors", "--config", "tiny") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == [
        "1 missing",
        "  dec_norm.weight",
        "1 extra",
        "  surplus",
        "1 other shape",
        "  decoder_embed.weight (7, 7) instead of (32, 48)",
        "1 other type",
        "  enc_norm.bias int64 instead of float32",
    ]
    assert "it looks most like dust3r_224_linear (tiny) or dust3r_512_linear (tiny): 98 % of names and shapes agree" in lines[-1]
    with pytest.raises(WeightsError, match=r"x.safetensors: are not those of dust3r_512_linear \(1 missing: dec_norm.weight; 1 extra: surplus; "):
        create_network(TINY, "tiny", tmp_path / "x.safetensors")


def test_a_file_of_another_network_or_size_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("check", "jog3r", folder / "plain.safetensors", "--differences", "2") == 1
    printed = capsys.readouterr().out
    assert "  …" in printed
    assert printed.splitlines()[-1] == "does not fit jog3r; it is a file of dust3r_224_linear (tiny) or dust3r_512_linear (tiny)"
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert weights("check", "stdit", tmp_path / "other.safetensors") == 1
    assert "no network of the registry has half of its names and shapes" in capsys.readouterr().out
    assert weights("convert", "pi3", folder / "half.safetensors", tmp_path / "out.safetensors", "--config", "tiny") == 2
    assert "are not those of pi3" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_published_networks_are_recognised_by_their_shapes_alone() -> None:
    for name, spec in NETWORKS.items():
        for config in spec.configurations:
            with torch.device("meta"):
                state = build_network(name, config).state_dict()
            public = resolve(spec.to_public)(state) if spec.to_public else state
            assert compare(name, public, config).fits
            likeness = most_like(public)
            assert likeness is not None
            assert likeness.share == 1
            assert f"{name} ({config})" in likeness.networks


def test_pickles_are_refused_with_the_converter_named_and_never_executed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("training.pth", "trap.pth"):
        assert weights("check", TINY, folder / file, "--config", "tiny") == 2
        message = capsys.readouterr().err
        assert "a pickle can run any code; `perception weights convert NAME FILE OUT.safetensors`" in message
        assert ("argparse.Namespace" in message) == (file == "training.pth")
        with pytest.raises(WeightsError, match="not a plain file of tensors"):
            create_network(TINY, "tiny", folder / file)
    for command in (
        ("check", TINY, folder / "raw.pkl"),
        ("convert", TINY, folder / "raw.pkl", folder / "never.safetensors"),
        ("convert", TINY, folder / "hostile.pth", folder / "never.safetensors"),
    ):
        assert weights(*command) == 2
        assert "load it where you trust it and write its tensors with safetensors.torch.save_file" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["training.pth", "trap.pth", "parallel.pth", "half.safetensors", "a.safetensors.index.json"])
def test_converting_keeps_names_and_values_and_leaves_the_rest(folder: Path, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert weights("convert", TINY, folder / file, out, "--config", "tiny") == 0
    assert f"{out}: 133 tensors" in capsys.readouterr().out
    found, expected = load_file(out), public_state()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == (torch.float16 if "half" in file else torch.float32)
        assert torch.equal(value, expected[key].to(value.dtype))
    with safe_open(out, "pt") as stored:
        assert stored.metadata() == {"format": "pt", "network": TINY, "licence": "CC-BY-NC-SA-4.0"}
    assert weights("convert", TINY, folder / file, out, "--config", "tiny") == 2
    assert "exists already" in capsys.readouterr().err


def test_converting_changes_the_type_of_numbers_and_separates_shared_memory(tmp_path: Path) -> None:
    state = public_state()
    state["dec_norm.bias"] = state["dec_norm.weight"]
    torch.save(state, tmp_path / "shared.pth")
    command = ("convert", TINY, tmp_path / "shared.pth", tmp_path / "new" / "out.safetensors", "--config", "tiny", "--precision", "bfloat16")
    assert weights(*command) == 0
    found = load_file(tmp_path / "new" / "out.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert torch.equal(found["dec_norm.bias"], found["dec_norm.weight"])
    assert weights("convert", TINY, tmp_path / "shared.pth", tmp_path / "out.pth") == 2


def test_broken_shards_say_which(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "b.safetensors.index.json"
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    for content, message in {
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}): "1 of 2 shards are not beside it: two.safetensors",
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}): "1 tensors are not in their shards: b",
        json.dumps({"weight_map": {"a": "../one.safetensors"}}): "must name files beside it",
        json.dumps({"weight_map": {}}): "must name files beside it",
        json.dumps({"files": 3}): "not an index of shards",
        json.dumps([1]): "not an index of shards",
        "{": "not an index of shards",
    }.items():
        index.write_text(content)
        with pytest.raises(WeightsError, match=message):
            read_tensors(index)
    index.unlink()
    with pytest.raises(WeightsError, match="a folder with 0 files"):
        read_tensors(tmp_path)


def test_what_a_clone_without_lfs_holds_is_named(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.bin"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
        with pytest.raises(WeightsError, match=r"only a pointer to the file.*git lfs pull"):
            read_tensors(tmp_path / name)


def test_unknown_names_list_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("check", "pi4", "x") == 2
    assert "network = 'pi4': unknown; known: cotracker3_offline" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"config = 'huge': unknown; those of pi3 are large, base, small, tiny"):
        create_network("pi3", "huge")
    assert weights("check", "pi3", "/no/such/file.safetensors") == 2
    assert "no such file" in capsys.readouterr().err
    assert weights("chek") == 2
    assert "did you mean 'check'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_card_with_source_licence_input_and_what_was_run(name: str) -> None:
    spec, card = network_spec(name), network_card(name)
    assert spec.source in card
    assert spec.licence in card
    headings = [line.removeprefix("## ").lower() for line in card.splitlines() if line.startswith("## ")]
    for heading in ("source", "licence", "input", "what was run", "what was not run"):
        assert any(found.startswith(heading) for found in headings), f"{spec.card} has no section {heading!r}; it has {headings}"
    for path in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.]+)`", card):
        assert (REPOSITORY / path).is_file(), f"{spec.card} names {path}"


def test_every_card_belongs_to_a_network_or_to_weights_that_ship() -> None:
    cards = {path.name for path in (files("perception.models") / "cards").iterdir() if path.name.endswith(".md")}
    shipped = {path.name.removesuffix(".safetensors") + ".md" for path in (files("perception.models") / "weights").iterdir()}
    assert cards == {spec.card for spec in NETWORKS.values()} | shipped
