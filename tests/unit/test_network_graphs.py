"""Every published network as graphs: equal to torch, accepted by TensorRT-RTX, with what is split off said. Sizes are the smallest there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.small_networks import COTRACKER3, NETWORKS_AND_SIZES, PI3, TRAJVG, parts_of, pixels

from perception.backends.backend import open_backend
from perception.backends.engine_folder import ENGINE, GRAPH, verified_file
from perception.backends.onnx_export import MixedNetwork
from perception.cli.main import main
from perception.core.errors import ConfigError, InputError
from perception.geometry import se3
from perception.models.export import CheckImages, ExportSettings, export_part
from perception.models.jog3r import tiny as tiny_jog3r
from perception.models.network_graphs import GRAPHS, network_parts
from perception.models.networks import NETWORKS, create_network
from perception.models.pi3 import Pi3
from perception.models.pi3.heads import camera_pose
from perception.models.trajvg import TrajVG

_QUICK = ("pi3", "dust3r_linear", "stdit", "cotracker3")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))


def some_images() -> CheckImages:
    rng = np.random.default_rng(0)
    return CheckImages([rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(4)], "noise")


def test_every_registered_network_has_graphs() -> None:
    assert GRAPHS.keys() == NETWORKS.keys()


@pytest.mark.parametrize("case", [case if case in _QUICK else pytest.param(case, marks=pytest.mark.slow) for case in NETWORKS_AND_SIZES])
def test_every_part_becomes_an_rtx_engine_with_a_free_first_side(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the wheels of TensorRT-RTX, which requirements.txt has")
    monkeypatch.setattr("perception.backends.tensorrt_build.compute_target", lambda: "SM89")  # each more takes as long again
    _, _, size, precision = NETWORKS_AND_SIZES[case]
    for part in parts_of(case):
        folder = tmp_path / part.model
        record, _ = export_part(part, ExportSettings("tensorrt_rtx", precision, size, 3), some_images, folder)  # type: ignore[arg-type]
        assert verified_file(folder, record, ENGINE).stat().st_size > 10_000
        assert record.left_out == part.left_out
        assert all(tensor.shape[0] is None for tensor in (*record.io_spec.inputs, *record.io_spec.outputs))
        assert record.accuracy.mean_cosine > 0.999
        if precision == "fp16":  # which onnxruntime runs, with fewer and with more rows than the graph was made with
            backend = open_backend("onnxruntime", folder / GRAPH)
            for inputs in part.runs(pixels(3, size), 3):
                found, expected = [backend.run(inputs)], [part.run(part.module, inputs)]
                assert part.agreement(found, expected).mean_cosine > 0.999


def test_an_exact_graph_equals_torch_for_any_number_of_rows(tmp_path: Path) -> None:
    (part,) = parts_of("croco")
    record, _ = export_part(part, ExportSettings("onnx", "fp32", (32, 48), 4), some_images, tmp_path / "out")
    assert record.accuracy.max_share < 1e-5
    backend = open_backend("onnxruntime", tmp_path / "out" / GRAPH)
    for count in (1, 2, 4):
        images = torch.cat(pixels(count, (32, 48)))
        assert torch.allclose(backend.run({"images": images})["features"], part.run(part.module, {"images": images})["features"], atol=1e-4)


def test_what_is_left_to_torch_gives_the_whole_network() -> None:
    torch.manual_seed(0)
    pi3, trajvg = Pi3(PI3).eval(), TrajVG(TRAJVG).eval()
    images = torch.cat(pixels(3, (42, 56)))
    for network, name in ((pi3, "pi3"), (trajvg, "trajvg")):
        (part,) = network_parts(name, network, (42, 56), name)
        outputs = part.run(part.module, {"images": images})
        with torch.inference_mode():
            whole = network(images[None])
        pose = camera_pose(outputs["cameras"])
        assert torch.allclose(pose, whole.world_from_camera[0], atol=1e-5)
        points = se3.transform_points(pose, outputs["local_points"].flatten(1, 2)).view_as(outputs["local_points"])
        assert torch.allclose(points, whole.world_points[0], atol=1e-4)


def test_products_alone_change_their_number_type() -> None:
    (part,) = parts_of("pi3")
    mixed = MixedNetwork(part.module, torch.bfloat16, part.float32)
    kinds = {name: parameter.dtype for name, parameter in mixed.named_parameters()}
    assert kinds["module.network.decoder.0.attn.qkv.weight"] == torch.bfloat16
    assert kinds["module.network.decoder.0.norm1.weight"] == torch.float32
    assert kinds["module.network.point_head.proj.weight"] == torch.float32
    assert {parameter.dtype for parameter in part.module.parameters()} == {torch.float32}, "the network itself stays as it is"


@pytest.mark.parametrize(
    ("name", "config", "size", "error", "message"),
    [
        ("pi3", PI3, (40, 56), InputError, "Pi3: images of 56x40 px; both sides must be positive multiples of the patch, 14 px"),
        ("stdit", tiny_jog3r().stdit, (64, 64), ConfigError, "image_size = 64 64: must be 32 32, for which this video network was built"),
        ("cotracker3_online", COTRACKER3, (30, 48), ConfigError, "image_size = 30 48: sides must be multiples of 16 px"),
        ("jog3r", tiny_jog3r("clip"), (32, 32), ConfigError, "the one of whole clips runs in torch, take --config pairs"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(name: str, config: Any, size: tuple[int, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        network_parts(name, create_network(name, config), size, name)


def test_int8_is_refused_for_networks_that_are_no_extractors(tmp_path: Path) -> None:
    (part,) = parts_of("pi3")
    with pytest.raises(ConfigError, match="precision = 'int8': is for extractors"):
        export_part(part, ExportSettings("onnx", "int8", (42, 56)), some_images, tmp_path / "out")


def test_the_command_exports_a_network_part_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.cli.export.create_network", lambda name, *_: create_network(name, COTRACKER3))
    monkeypatch.setattr("perception.cli.export.network_parts", lambda *arguments: network_parts(*arguments)[1:])  # the first takes longest
    words = f"export cotracker3_online --backend onnx --image-size 32 48 --max-batch 2 --out {tmp_path / 'out'}".split()
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cotracker3_online(online, random).transformer to onnx fp32" in said
    assert "left to torch gathering of patches" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["correlations", "transformer"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert main(["export", "no_such_network", "--backend", "onnx", "--image-size", "32", "48"]) == 2
    assert "pi3" in capsys.readouterr().err
