"""A float32 ONNX graph with its products in int8, calibrated on images; as many of them as an accuracy allows, the rest stay float.

Post-training quantisation by onnxruntime: weights symmetric for each output channel, activations asymmetric for each tensor from the range seen in
calibration. Products of two activations (attention) stay float. The result is an ordinary ONNX file with QuantizeLinear and DequantizeLinear, which
onnxruntime and OpenVINO both run in int8.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from perception.backends.backend import BackendOptions, open_backend
from perception.backends.engine_folder import sha256_of
from perception.backends.onnx_export import cosines
from perception.core.errors import InputError, MissingDependencyError, WeightsError

MIN_COSINE = 0.999
"""Smallest cosine of any cell to the float32 network that counts as equal."""
MIN_IMAGES = 4
Form = Literal["int8", "int8_symmetric", "fp8"]
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_HELD_OUT = 4
"""Every fourth image is kept for the check."""
_NUM_GROUPS = 12
"""So many parts of a network are tried in int8 alone, to find those that must stay float."""


@dataclass(frozen=True)
class Quantised:
    """What came of it. min_cosine, mean_cosine: over the cells of images that calibration did not see, against the float32 graph · num_int8 of
    num_products products are computed in int8 · sha256: of the written graph · source_sha256: of the float32 graph."""

    min_cosine: float
    mean_cosine: float
    num_int8: int
    num_products: int
    num_images: int
    sha256: str
    source_sha256: str


def quantise(graph: Path, images: Sequence[torch.Tensor], path: Path, min_cosine: float = MIN_COSINE, form: Form = "int8") -> Quantised:
    """Write the int8 form (or float8, by `form`) of `graph` to `path`, and beside it what it is (`path` + ".json").

    images: inputs of the graph, each (1, 3, height, width) float32 in [0, 1], at least MIN_IMAGES of them, as the robot will see them.
    The parts of the network that lose most for the work they save are left in float, as few as it takes to reach `min_cosine` on the images held out.
    form: `int8_symmetric` has zero point 0 for activations too, since TensorRT takes no others, and is a little less exact; `fp8` is float8 (4 bits
    of exponent) with one scale for each tensor, for GPUs from Ada on.
    Raises InputError for too few images, WeightsError where not even one product can be in int8.
    """
    check_number(images)
    checked = list(images[_HELD_OUT - 1 :: _HELD_OUT])
    seen = [image for index, image in enumerate(images) if index % _HELD_OUT != _HELD_OUT - 1]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".quantise.") as folder:
        attempt = _Attempts(graph, seen, checked, Path(folder), form)
        found = _fewest_left_out(attempt, min_cosine)
        if found is None:
            raise WeightsError(
                f"int8 form of {graph.name}: no product can be in int8 at a cosine of {min_cosine}; more and other calibration images may help, "
                "or use precision bf16"
            )
        partial, cosines, num_left_out = found
        num_products = len(attempt.products)
        result = Quantised(*cosines, num_products - num_left_out, num_products, len(images), sha256_of(partial), sha256_of(graph))
        os.replace(partial, path)
    record_path(path).write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def check_number(images: Sequence[object]) -> None:
    """Raise InputError where there are too few to calibrate on."""
    if len(images) < MIN_IMAGES:
        raise InputError(f"calibration: {len(images)} images: must be at least {MIN_IMAGES}")


def record_path(path: Path) -> Path:
    """Where the record of a quantised graph lies."""
    return path.with_name(path.name + ".json")


def read_quantised(path: Path) -> Quantised:
    """The record of a quantised graph whose content is as recorded. Raises WeightsError that says what is wrong."""
    try:
        record = Quantised(**json.loads(record_path(path).read_text()))
        found = sha256_of(path)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"int8 graph {path}: no such graph or record ({error}); run `perception bench MODEL --calibrate BAG`") from error
    if found != record.sha256:
        raise WeightsError(f"int8 graph {path}: sha256 {found[:12]}… is not the recorded {record.sha256[:12]}…: changed, not loaded; calibrate again")
    return record


class _Attempts:
    """Quantises one graph again and again with other products left out; calibrates once."""

    def __init__(self, graph: Path, seen: Sequence[torch.Tensor], checked: Sequence[torch.Tensor], folder: Path, form: Form) -> None:
        self._form = form
        self._graph, self._seen, self._checked, self._folder = graph, seen, checked, folder
        self._input = _input_name(graph)
        self._expected = self._outputs(graph)
        self.products = _products(graph, tuple(seen[0].shape))
        # The scale of float8 is made from the spread of values: weights that are all alike have none.
        self._never = _without_spread(graph) if form == "fp8" else []
        self.products = {name: work for name, work in self.products.items() if name not in self._never}
        self._count = 0

    def write(self, left_out: Sequence[str]) -> tuple[Path, tuple[float, float]]:
        """The graph without the products of these names in int8; its smallest and mean cosine."""
        quantization = _quantization()
        self._count += 1
        path = self._folder / f"{self._count}.onnx"
        with _quiet():
            quantization.quantize_static(
                self._graph,
                path,
                _reader(quantization, self._input, self._seen),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_PRODUCTS),
                nodes_to_exclude=[*left_out, *self._never],
                **self._settings(quantization),
            )
        found = torch.cat([cosines(a, b).flatten() for a, b in zip(self._outputs(path), self._expected, strict=True)])
        return path, (float(found.min()), float(found.mean()))

    def _settings(self, quantization: Any) -> dict[str, Any]:
        """What distinguishes the forms, as arguments of `quantize_static`."""
        kinds, symmetric = quantization.QuantType, self._form != "int8"
        extra = {"MatMulConstBOnly": True, "ActivationSymmetric": symmetric, "WeightSymmetric": True}
        extra["QuantizeBias"] = not symmetric  # TensorRT takes biases as they are only
        if self._form == "fp8":
            method = quantization.CalibrationMethod.Distribution  # the only one that onnxruntime has for float8
            return {"weight_type": kinds.QFLOAT8E4M3FN, "activation_type": kinds.QFLOAT8E4M3FN, "calibrate_method": method, "extra_options": extra}
        return {
            "per_channel": True,
            "weight_type": kinds.QInt8,
            "activation_type": kinds.QInt8 if symmetric else kinds.QUInt8,
            "extra_options": extra,
            "calibration_cache_path": self._folder / "ranges.json",
        }

    def _outputs(self, path: Path) -> list[torch.Tensor]:
        dtype = torch.float8_e4m3fn if self._form == "fp8" else torch.float32
        backend = open_backend("onnxruntime", path, BackendOptions(dtype=dtype, num_threads=torch.get_num_threads()))
        name = backend.io_spec.outputs[0].name
        outputs = [backend.run({self._input: image})[name] for image in self._checked]
        backend.close()
        return outputs


def _fewest_left_out(attempt: _Attempts, min_cosine: float) -> tuple[Path, tuple[float, float], int] | None:
    """Graph, cosines and number of products left in float; None where it takes all of them."""
    path, cosines = attempt.write([])
    if cosines[0] >= min_cosine:
        return path, cosines, 0
    path.unlink()
    order = _most_harmful_first(attempt, _groups(attempt.products))
    best = None
    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        left_out = [name for group in order[:middle] for name in group]
        path, cosines = attempt.write(left_out)
        if cosines[0] >= min_cosine:
            enough, best = middle, (path, cosines, len(left_out))
        else:
            too_few = middle
            path.unlink()
    return best


def _products(graph: Path, shape: tuple[int, ...]) -> dict[str, int]:
    """Nodes that multiply an activation by weights, in the order of the graph, and how many multiplications each takes for an input of this shape."""
    import onnx

    model = onnx.load(graph)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for side, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        side.dim_value = size
    described = onnx.shape_inference.infer_shapes(model).graph
    sides = {entry.name: [side.dim_value or 1 for side in entry.type.tensor_type.shape.dim] for entry in (*described.value_info, *described.output)}
    found = {}
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and node.input[1] in weights:
            shape = weights[node.input[1]]
            per_value = math.prod(shape[1:]) if node.op_type == "Conv" else shape[0]
            found[node.name] = math.prod(sides.get(node.output[0], [1])) * per_value
    return found


def _without_spread(graph: Path) -> list[str]:
    """Products whose weights are all the same number, such as the 0 that a layer may begin with."""
    import onnx

    model = onnx.load(graph).graph
    weights = {tensor.name: tensor for tensor in model.initializer}
    inputs = {node.name: node.input[1] for node in model.node if node.op_type in _PRODUCTS and node.input[1] in weights}
    return [name for name, weight in inputs.items() if np.ptp(onnx.numpy_helper.to_array(weights[weight])) == 0]


def _groups(products: Mapping[str, int]) -> list[list[str]]:
    """Neighbouring products in at most _NUM_GROUPS groups of about equal work."""
    share = sum(products.values()) / _NUM_GROUPS
    groups: list[list[str]] = []
    done = 0.0
    for name, work in products.items():
        if len(groups) < min(_NUM_GROUPS, int((done + work / 2) / share) + 1):
            groups.append([])
        groups[-1].append(name)
        done += work
    return groups


def _most_harmful_first(attempt: _Attempts, groups: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The groups in the order of the error that each brings alone, for the work that it saves."""
    harm = []
    for group in groups:
        alone = set(group)
        path, (_, mean_cosine) = attempt.write([name for name in attempt.products if name not in alone])
        path.unlink()
        harm.append((1 - mean_cosine) / max(1, sum(attempt.products[name] for name in group)))
    return [groups[index] for index in sorted(range(len(groups)), key=lambda index: -harm[index])]


def _input_name(graph: Path) -> str:
    backend = open_backend("onnxruntime", graph)
    name = backend.io_spec.inputs[0].name
    backend.close()
    return name


def _quantization() -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingDependencyError(f"int8: {error.name} is not installed; pip install onnx onnxruntime") from error
    return quantization


def _reader(quantization: Any, name: str, images: Sequence[torch.Tensor]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands out the images one by one, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self._left: Iterator[torch.Tensor] = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {name: image.numpy()}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime advises on the root logger to simplify a graph that is simplified already."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
