"""A torch module written as an ONNX file, for images of one size or of all, and read back before anyone uses it.

Graphs are kept to what the parsers of TensorRT and TensorRT-RTX take: whatever depends on the image size only is computed before (`prepare` of a
DenseNetwork), and number types are those of the module, since these libraries build strongly typed networks. Opset 23 keeps attention in one piece.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from perception.backends.backend import Backend, BackendOptions, free_side_name, open_backend
from perception.core.errors import MissingDependencyError, WeightsError

OPSET = 23
_PRODUCT_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
_LARGEST_FILE_BYTES = 1 << 30
"""Weights beyond this lie in a file beside the graph: the format ends at 2 GiB."""
SPLIT_ATTENTION_OPSET = 20
"""The last one that has no attention operator, so that it becomes products and a softmax."""
MAX_RELATIVE_ERROR = 1e-3
"""A float32 graph whose output differs from torch by more than this share of the largest output is refused."""


@dataclass(frozen=True)
class Agreement:
    """Two outputs compared: largest difference, the same as a share of the largest expected value, and the smallest and mean cosine over the
    channel axis (axis 1)."""

    max_error: float
    min_cosine: float
    max_share: float = 0.0
    mean_cosine: float = 1.0


def cosines(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(batch, ...) over the channels of (batch, channels, ...); 1 where both are zero, as nano's descriptors of flat cells."""
    # In float64: sums over whole outputs err by 1e-5 in float32, which is all that a float32 export may differ.
    a, b = actual.double(), expected.double()
    both_zero = ~(a.any(1) | b.any(1))
    return torch.cosine_similarity(a, b, dim=1).masked_fill(both_zero, 1.0)


def compare(actual: torch.Tensor, expected: torch.Tensor) -> Agreement:
    """Agreement of two (batch, channels, ...) outputs in float32; not a number anywhere makes the errors NaN."""
    a, b = actual.detach().cpu().float(), expected.detach().cpu().float()
    error, cosine = float((a - b).abs().max()), cosines(a, b)
    return Agreement(error, float(cosine.min()), error / max(float(b.abs().max()), 1e-12), float(cosine.mean()))


def combined(agreements: Sequence[Agreement]) -> Agreement:
    """The worst of several, and the mean of their mean cosines."""
    # Not max(): it passes over NaN.
    errors, shares = (torch.tensor([getattr(a, name) for a in agreements]).max().item() for name in ("max_error", "max_share"))
    cosines = torch.tensor([(a.min_cosine, a.mean_cosine) for a in agreements])
    return Agreement(errors, cosines[:, 0].min().item(), shares, cosines[:, 1].mean().item())


class MixedNetwork(nn.Module):
    """A copy of a module whose products (linear layers, convolutions and, with them, attention) have numbers of `dtype`, and nothing else: norms and
    the sums that flow through a transformer stay float32, as under autocast. Inputs and outputs are those of the module, outputs in float32.

    float32: names of parts that stay float32 altogether.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, float32: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        for name, part in self.module.named_modules():
            inside = any(name == prefix or name.startswith(f"{prefix}.") for prefix in float32)
            if isinstance(part, _PRODUCT_LAYERS) and not inside:
                part.to(dtype).register_forward_pre_hook(_converts_to(dtype))
            elif isinstance(part, _PRODUCT_LAYERS + _NORM_LAYERS):
                part.register_forward_pre_hook(_converts_to(torch.float32))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the module gives, as a tuple."""
        outputs = self.module(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output.float() for output in outputs)


def _converts_to(dtype: torch.dtype) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    return lambda _, inputs: tuple(value.to(dtype) for value in inputs)


class TypedNetwork(nn.Module):
    """A copy of a network with numbers of `dtype` inside and float32 images and descriptors outside.

    Modules with a method `fold_norms` are folded before, in float32: the exporter's own folding leaves float32 weights in bfloat16 graphs.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        for module in list(self.network.modules()):
            if hasattr(module, "fold_norms"):
                module.fold_norms()  # type: ignore[operator]
        self.network.to(dtype)
        self._dtype = dtype

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (batch, 3, height, width) float32 → what the network gives, float32."""
        descriptors: torch.Tensor = self.network(image.to(self._dtype)).to(torch.float32)
        return descriptors


def weights_digest(module: nn.Module) -> Any:
    """A running SHA-256 over the names and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest


def export_key(module: nn.Module, description: str, examples: Sequence[torch.Tensor]) -> str:
    """Name of the file that `export_onnx` writes: a hash of weights, architecture, sizes of the inputs, opset and torch version."""
    digest = weights_digest(module)
    digest.update(f"{description}|{[tuple(example.shape) for example in examples]}|{OPSET}|{torch.__version__}".encode())
    return str(digest.hexdigest())[:24]


def export_onnx(module: nn.Module, examples: Sequence[torch.Tensor], path: Path) -> Agreement:
    """Write `module` for inputs of exactly the size of the example (batch, 3, height, width), or, given several, for inputs of all sizes along the
    sides in which these differ; and compare it with torch on each first.

    The file appears under its name only when onnxruntime has run it and the outputs agree (MAX_RELATIVE_ERROR); raises WeightsError if not.
    """
    module = module.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        write_graph(module, {"image": examples[0]}, partial)
        if len(examples) > 1:
            _free_sides(partial, [index for index, sides in enumerate(zip(*(e.shape for e in examples), strict=True)) if len(set(sides)) > 1])
        agreement = combined([_agreement(module, example, partial, path) for example in examples])
        # The graph last: where it is, its weights are.
        for written in reversed(graph_files(partial)):
            os.replace(written, path.with_name(written.name))
    return agreement


def graph_files(path: Path) -> list[Path]:
    """A graph and the file of its weights, where they lie beside it."""
    return [file for file in (path, path.with_name(f"{path.name}.data")) if file.is_file()]


def _agreement(module: nn.Module, example: torch.Tensor, graph: Path, path: Path) -> Agreement:
    """Of the graph, which is to become `path`, with the module."""
    with torch.inference_mode():
        expected = module(example)
    backend: Backend = open_backend("onnxruntime", graph, BackendOptions(input_shape=tuple(example.shape)))
    found = backend.run({"image": example})["tokens"]
    backend.close()
    if found.shape != expected.shape:
        raise WeightsError(f"export to {path}: gives {tuple(found.shape)}, torch {tuple(expected.shape)}; use backend = 'torch'")
    agreement, allowed = compare(found, expected), MAX_RELATIVE_ERROR * float(expected.abs().max())
    if not agreement.max_error <= allowed:
        raise WeightsError(f"export to {path}: differs from torch by {agreement.max_error:.2g}, allowed {allowed:.2g}; use backend = 'torch'")
    return agreement


def _free_sides(path: Path, sides: Sequence[int]) -> None:
    """Leave sides of the input and of what comes of it open, in place. The graph must hold nothing that depends on them: torch would find that out
    by itself, but takes three times as long as the rest of the export, and the comparison at another size shows it as well."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for index in sides:
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_param = free_side_name(index)
    onnx.save(model, path)


def write_graph(
    module: nn.Module,
    examples: Mapping[str, torch.Tensor],
    path: Path,
    max_batch: int = 1,
    outputs: Sequence[str] = ("tokens",),
    opset: int = OPSET,
    thorough: bool = True,
) -> None:
    """The graph of `module` in `path`, simplified, not compared with anything; max_batch above 1 leaves the first side of all inputs and outputs free
    between 1 and that. Weights beyond 1 GiB lie beside it, in `path` + ".data".

    examples: inputs by name, in the order of the module's arguments · outputs: names of what it gives · thorough: False only folds constants, which
    takes a fifth of the time on networks of dozens of blocks.
    Raises WeightsError where torch cannot express the module in ONNX.
    """
    dynamic: Any = None
    example = tuple(examples.values())
    if max_batch > 1:
        # torch takes sides of 1 for constants, so that it must see another.
        example = tuple(value[:1].expand(2, *value.shape[1:]).contiguous() for value in example)
        rows = torch.export.Dim("batch", min=1, max=max_batch)
        dynamic = (tuple({0: rows} for _ in example),) if _takes_any_number(module) else tuple({0: rows} for _ in example)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                example,
                input_names=list(examples),
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=dynamic,
                optimize=thorough,
                verbose=False,
            )
            assert program is not None
            if not thorough:
                _fold_constants(program.model)
            program.save(str(path), external_data=_is_large(module))
        except ImportError as error:
            raise MissingDependencyError(f"export to ONNX: {error.name} is not installed; pip install onnx onnxscript") from error
        except torch.onnx.errors.OnnxExporterError as error:
            reason = next((line.strip() for line in reversed(str(error.__cause__ or error).splitlines()) if line.strip()), type(error).__name__)
            raise WeightsError(f"export to ONNX: torch cannot express {type(module).__name__} ({reason[:300]}); use backend = 'torch'") from error
    if thorough and not _is_large(module):
        simplify(path)


def _fold_constants(model: Any) -> None:
    """In place; also turns sequences of tensors, which the parsers refuse, into plain ones."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    fold_constants(model)
    RemoveUnusedNodesPass()(model)
    put_in_rows(model)


def put_in_rows(model: Any) -> None:
    """Let those constants of a graph that are not in the order in which they are written, as transposed weights, be copied one by one when that
    happens: numpy would write them to the file number by number, at a tenth of the disk's speed."""
    from onnx_ir import LazyTensor, Tensor

    def in_rows(folded: Any) -> Callable[[], Any]:
        # As whole numbers of the same size, because torch takes no bfloat16 of NumPy's.
        bits = folded.raw.view(f"i{folded.raw.itemsize}")
        return lambda: Tensor(torch.from_numpy(bits).contiguous().numpy().view(folded.raw.dtype), dtype=folded.dtype, name=folded.name)

    for name, value in model.graph.initializers.items():
        folded = value.const_value
        if isinstance(folded, Tensor) and isinstance(folded.raw, np.ndarray) and not folded.raw.flags.c_contiguous:
            value.const_value = LazyTensor(in_rows(folded), folded.dtype, folded.shape, name=name)


def _takes_any_number(module: nn.Module) -> bool:
    """Whether the inputs are `*inputs`, whose shapes torch wants as one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _is_large(module: nn.Module) -> bool:
    return sum(tensor.nbytes for tensor in module.state_dict().values()) > _LARGEST_FILE_BYTES


def simplify(path: Path) -> None:
    """Fold constants and drop what is redundant, in place, by onnxslim; without it the graph stays as torch wrote it, which is much the same."""
    try:
        import onnxslim
    except ImportError:
        return
    import onnx

    slimmed = onnxslim.slim(onnx.load(path))
    if slimmed is not None:
        onnx.save(slimmed, path)


@contextlib.contextmanager
def _quiet_exporter() -> Any:
    """Without the exporter's progress and warnings, which say nothing that a user could act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
