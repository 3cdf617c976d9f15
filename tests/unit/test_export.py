"""`perception export`: every network becomes a graph and an engine of TensorRT-RTX, which a CPU can build, and is compared with torch first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from tests.support.closeness import DATA

from perception.backends.backend import BackendOptions, open_backend
from perception.backends.engine_folder import ENGINE, GRAPH, read_record, verified_file, write_record
from perception.backends.onnx_export import Agreement, TypedNetwork, combined, compare, put_in_rows, weights_digest, write_graph
from perception.backends.tensorrt_build import RTX_TARGETS, build_engine, rtx_targets
from perception.backends.tensorrt_library import load_library
from perception.cli.export import Arguments, check_images, run
from perception.cli.main import main
from perception.core.errors import ConfigError, MissingDependencyError, WeightsError
from perception.models import export
from perception.models.alike import CHANNELS, AlikeNetwork
from perception.models.export import CheckImages, ExportSettings, export_folder, export_network
from perception.models.extractor import ExtractorConfig
from perception.models.network_extractor import NetworkExtractor
from perception.models.registry import create_extractor

KITCHEN = DATA / "redkitchen"
NETWORKS = {
    **dict.fromkeys(("tiny_dino", "tiny_deit_distilled", "tiny_mae", "tiny_dinov3", "tiny_clip"), "fp16"),
    **{"tiny_dinov2": "fp32", "tiny_dinov2_reg": "bf16", "tiny_nano": "fp16", "alike_t": "bf16"},
}
"""One network of each architecture; the sizes differ in widths and depths only. Precisions take turns."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the wheels of TensorRT-RTX, which requirements.txt has")


def extractor_of(name: str, folder: Path) -> NetworkExtractor:
    weights = ""
    if name == "alike_t":
        weights = str(folder / "alike.pth")
        torch.manual_seed(0)
        torch.save(AlikeNetwork(CHANNELS[name]).state_dict(), weights)
    made = create_extractor(ExtractorConfig(extractor=name, weights=weights, backend="torch", precision="float32", device="cpu"))
    assert isinstance(made, NetworkExtractor)
    return made


class SmallNetwork(torch.nn.Module):
    """A DenseNetwork of one convolution, which is exported in a moment."""

    dim, multiple_px, stride_px, offset_px, any_size = 8, 4, 4, 1.5, True

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, self.dim, 4, stride=4)

    def prepare(self, height: int, width: int) -> None:
        """Nothing depends on the image size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


def small_extractor() -> NetworkExtractor:
    torch.manual_seed(0)
    return NetworkExtractor("small", SmallNetwork(), ExtractorConfig(backend="torch", precision="float32", device="cpu"))


def some_images() -> CheckImages:
    rng = np.random.default_rng(0)
    return CheckImages([rng.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(5)], "noise")


def size_of(extractor: NetworkExtractor) -> tuple[int, int]:
    unit = extractor.network.multiple_px
    return (4 * unit, 5 * unit) if unit < 32 else (2 * unit, 3 * unit)


@pytest.mark.parametrize(("name", "precision"), NETWORKS.items())
def test_every_network_becomes_an_rtx_engine_with_a_free_batch(name: str, precision: str, rtx: None, tmp_path: Path) -> None:
    extractor = extractor_of(name, tmp_path)
    settings = ExportSettings("tensorrt_rtx", precision, size_of(extractor), max_batch=4)  # type: ignore[arg-type]
    folder = export_folder(extractor.name, settings)
    record, is_new = export_network(extractor, settings, some_images, folder)
    assert is_new
    assert verified_file(folder, record, ENGINE).stat().st_size > 50_000
    assert record == read_record(folder)
    assert record.targets == tuple(target for target in RTX_TARGETS if target != "SM75" or precision == "fp16")
    assert record.io_spec.inputs[0].shape == (None, 3, *settings.image_size)
    assert record.io_spec.outputs[0].shape[:2] == (None, extractor.dim)
    assert record.accuracy.num_images == 5
    assert record.accuracy.mean_cosine > (0.999999 if precision == "fp32" else 0.9995)
    assert "engine was not run" in record.accuracy.run_by or torch.cuda.is_available()
    # The graph itself is well formed, and of one number type inside.
    onnx.checker.check_model(str(folder / GRAPH), full_check=True)


def test_nothing_is_done_twice_and_what_was_changed_is_made_again(tmp_path: Path) -> None:
    extractor, asked = small_extractor(), []
    settings = ExportSettings("onnx", "fp32", size_of(extractor))
    folder = tmp_path / "out"

    def images() -> CheckImages:
        asked.append(1)
        return some_images()

    first, is_new = export_network(extractor, settings, images, folder)
    assert is_new
    assert "run_ms" in first.timings
    assert export_network(extractor, settings, images, folder) == (first, False)
    assert len(asked) == 1
    (folder / GRAPH).write_bytes(b"another graph")
    again, is_new = export_network(extractor, settings, images, folder)
    assert is_new
    assert again.key == first.key
    with torch.no_grad():
        next(extractor.network.parameters()).mul_(1.01)  # type: ignore[attr-defined]
    changed, is_new = export_network(extractor, settings, images, folder)
    assert is_new
    assert changed.key != first.key
    assert changed.weights != first.weights
    assert open_backend("onnxruntime", folder / GRAPH).io_spec == changed.io_spec


@pytest.mark.parametrize(("budget_s", "num_images"), [(60.0, 5), (0.0, 2)])
def test_a_slow_network_is_compared_on_two_images_at_least_and_the_record_says_on_how_many(
    budget_s: float, num_images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_COMPARED_S", budget_s)
    extractor = small_extractor()
    record, _ = export_network(extractor, ExportSettings("onnx", "fp32", size_of(extractor)), some_images, tmp_path / "out")
    assert record.accuracy.num_images == num_images
    assert record.weights == weights_digest(extractor.network).hexdigest()  # type: ignore[arg-type]


def test_transposed_weights_lie_in_rows_before_they_are_written() -> None:
    transposed = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    other = onnx_ir.Tensor(np.ones((2, 2), np.float32), name="other")
    values = [onnx_ir.Value(name=item.name, const_value=item) for item in (onnx_ir.Tensor(transposed, name="weight"), other)]
    model = onnx_ir.Model(onnx_ir.Graph([], values, nodes=[], initializers=values, opset_imports={"": 23}), ir_version=10)
    put_in_rows(model)
    kept = model.graph.initializers["weight"].const_value
    assert kept is not None
    found = kept.numpy()
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, transposed)
    assert model.graph.initializers["other"].const_value is other


def test_cosines_of_whole_outputs_are_exact() -> None:
    values = 1 + torch.rand(1, 1_000_003, generator=torch.Generator().manual_seed(0))
    found = compare(3 * values, values)
    assert abs(found.mean_cosine - 1) < 1e-9
    assert abs(found.min_cosine - 1) < 1e-9


def test_images_on_their_own_and_together_give_the_same(tmp_path: Path) -> None:
    """Class and register tokens are repeated for each image of a batch."""
    extractor = extractor_of("tiny_dinov2_reg", tmp_path)
    height, width = size_of(extractor)
    network = extractor.network
    assert isinstance(network, torch.nn.Module)
    network.prepare(height, width)  # type: ignore[operator]
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([network(image) for image in images.split(1)])
    assert compare(network(images), alone).max_error < 1e-5
    write_graph(TypedNetwork(network, torch.float32), {"image": images[:1]}, tmp_path / "net.onnx", max_batch=3)
    backend = open_backend("onnxruntime", tmp_path / "net.onnx", BackendOptions(num_threads=1))
    assert compare(backend.run({"image": images})["tokens"], alone).max_error < 1e-4
    assert backend.run({"image": images[1:2]})["tokens"].shape == alone[:1].shape


def test_a_typed_network_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    network = AlikeNetwork(CHANNELS["alike_t"]).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.rand(1, 3, 64, 96)
    folded, half = TypedNetwork(network, torch.float32), TypedNetwork(network, torch.bfloat16)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert compare(folded(image), network(image)).max_share < 1e-5
    assert half(image).dtype == torch.float32
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_export_that_differs_is_refused_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = small_extractor()
    settings = ExportSettings("onnx", "fp32", size_of(extractor))
    monkeypatch.setattr(
        "perception.models.export.write_graph",
        lambda module, *arguments, **options: write_graph(_Doubled(module), *arguments, **options),  # as if an operator were translated wrongly
    )
    with pytest.raises(WeightsError, match=r"to onnx fp32: mean cosine 1.00000, largest error 1 of the largest output .*: beyond a mean cosine of"):
        export_network(extractor, settings, some_images, tmp_path / "out")
    assert not list(tmp_path.iterdir())


class _Doubled(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * self.module(image)


def test_not_a_number_is_never_in_agreement() -> None:
    bad = compare(torch.full((1, 2, 2, 2), float("nan")), torch.ones(1, 2, 2, 2))
    worst = combined([Agreement(0.0, 1.0), bad])
    assert not worst.max_share <= 1.0
    assert not worst.mean_cosine >= 0.0


@pytest.mark.parametrize("name", ["tiny_nano", "tiny_dinov2"])
def test_int8_for_tensorrt_has_no_zero_points_and_no_int8_biases(name: str, rtx: None, tmp_path: Path) -> None:
    extractor = extractor_of(name, tmp_path)
    settings = ExportSettings("tensorrt_rtx", "int8", size_of(extractor), max_batch=2)
    record, _ = export_network(extractor, settings, some_images, tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / GRAPH).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 10
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    assert record.accuracy.mean_cosine > 0.99
    assert set(record.files) == {GRAPH, ENGINE, "model.onnx.json"}


def test_float8_becomes_an_engine_for_gpus_that_have_it(rtx: None, tmp_path: Path) -> None:
    extractor = extractor_of("tiny_nano", tmp_path)
    settings = ExportSettings("tensorrt_rtx", "fp8", size_of(extractor), max_batch=2)
    record, _ = export_network(extractor, settings, some_images, tmp_path / "out")
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "out" / GRAPH).graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds
    assert onnx.TensorProto.INT8 not in kinds
    assert record.accuracy.mean_cosine > 0.99
    assert record.targets == ("SM89", "SM120", "SM121")


@pytest.mark.parametrize(
    ("operator", "way_out"), [("NonZero", "replace boolean masks by torch.where"), ("Det", "work out the determinant in torch, outside")]
)
def test_what_the_parser_refuses_is_named_with_the_way_out(operator: str, way_out: str, rtx: None, tmp_path: Path) -> None:
    helper, kinds = onnx.helper, onnx.TensorProto
    given = helper.make_tensor_value_info("image", kinds.FLOAT, [1, 4, 4])
    found = helper.make_tensor_value_info("tokens", kinds.INT64 if operator == "NonZero" else kinds.FLOAT, None)
    node = helper.make_node(operator, ["image"], ["tokens"], name="the_culprit")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [given], [found]), opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "g.onnx")
    with pytest.raises(WeightsError, match=rf"tensorrt_rtx [\d.]+ refuses it: node 0 the_culprit \({operator}\): .*way out: {way_out}"):
        build_engine(load_library("tensorrt_rtx"), tmp_path / "g.onnx", tmp_path / "g.engine", 1, rtx_targets("fp16"))
    assert not (tmp_path / "g.engine").exists()


def test_targets_follow_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for present, precision, expected in (("SM89", "bf16", ("SM89",)), ("SM75", "fp16", ("SM75",)), ("", "fp16", RTX_TARGETS)):
        monkeypatch.setattr("perception.backends.tensorrt_build.compute_target", lambda present=present: present)
        assert rtx_targets(precision) == expected
    monkeypatch.setattr("perception.backends.tensorrt_build.compute_target", lambda: "SM90")
    with pytest.raises(ConfigError, match=r"serves SM75, .* this GPU is SM90; use backend = 'tensorrt'"):
        rtx_targets("fp16")
    monkeypatch.setattr("perception.backends.tensorrt_build.compute_target", lambda: "SM75")
    with pytest.raises(ConfigError, match="tensorrt_rtx has none on SM75; use --precision fp16"):
        rtx_targets("bf16")
    with pytest.raises(ConfigError, match="has no float32 products on SM75, which this network needs"):
        rtx_targets("fp16", mixed=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_engine_without_a_gpu_is_one_sentence(rtx: None, tmp_path: Path) -> None:
    extractor = small_extractor()
    settings = ExportSettings("tensorrt_rtx", "fp16", size_of(extractor))
    folder = tmp_path / "out"
    record, _ = export_network(extractor, settings, some_images, folder)
    with pytest.raises(WeightsError, match=r"was built for a GPU of SM75, .*, this machine has no GPU: not loaded"):
        open_backend("tensorrt_rtx", folder)
    write_record(folder, replace(record, versions={**record.versions, "tensorrt_rtx": "1.0.0"}))
    with pytest.raises(WeightsError, match=r"was built with tensorrt_rtx 1.0.0, this machine has .*: not loaded"):
        open_backend("tensorrt_rtx", folder)


def test_settings_that_do_not_fit_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = {
        "--image-size 95 128 --backend onnx": "image_size = 95 128: sides must be multiples of 16 px for this network; nearest: 96 128",
        "--image-size 96 128 --backend onnx --max-batch 0": "max_batch = 0: must be at least 1",
        "--image-size 96 128 --backend openvino --precision fp16": "precision = 'fp16': backend openvino computes in fp32, bf16 or int8",
        "--image-size 96 128 --backend onnx --precision int8": "precision = 'int8': must be calibrated; give --calibrate",
        "--image-size 96 128 --backend openvino --precision fp8 --calibrate x": "precision = 'fp8': is for backends tensorrt and tensorrt_rtx",
        f"--image-size 96 128 --backend onnx --images {tmp_path / 'absent'}": "must be a folder of images, a video",
    }
    for words, message in calls.items():
        assert main(["export", "tiny_nano", *words.split()]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", "dense_sift", "--image-size", "96", "128", "--backend", "onnx"]) == 2
    assert "model = 'dense_sift': must be one of alike_t" in capsys.readouterr().err


def test_a_library_that_is_absent_names_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.backends.tensorrt_library.MODULES", {"tensorrt": ("no_such_tensorrt",)})
    with pytest.raises(MissingDependencyError, match=r"cannot be imported.*pip install tensorrt"):
        load_library("tensorrt")


def test_the_command_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Arguments("tiny_nano", "onnx", (96, 128), images=str(KITCHEN) if KITCHEN.exists() else "", num_images=3)
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert "cosine to torch" in said
    assert "run by the graph by onnxruntime" in said
    assert run(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_without_images_of_the_user_rendered_ones_are_taken() -> None:
    found = check_images(Arguments("tiny_nano", "onnx", (48, 64)))
    assert [image.shape for image in found.images] == [(48, 64, 3)] * 4
    assert np.stack(found.images).std() > 20


@pytest.mark.skipif(not (KITCHEN / "frame-000000.color.jpg").exists(), reason=f"{KITCHEN} is absent")
def test_images_are_spread_over_the_source() -> None:
    found = check_images(Arguments("tiny_nano", "onnx", (48, 64), images=str(KITCHEN), num_images=3))
    assert len(found.images) == 3
    assert not np.array_equal(found.images[0], found.images[1])


def test_an_export_that_could_not_be_compared_is_refused(tmp_path: Path) -> None:
    extractor = small_extractor()
    with torch.no_grad():
        for parameter in extractor.network.parameters():  # type: ignore[attr-defined]
            parameter.zero_()
    with pytest.raises(WeightsError, match="torch gives nothing but zeros, with which nothing can be compared"):
        export_network(extractor, ExportSettings("onnx", "fp32", (16, 24)), some_images, tmp_path / "out")
    assert not list(tmp_path.iterdir())
