"""A torch module of fixed input size written as an ONNX file, and read back before anyone uses it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from perception.backends.backend import Backend, BackendOptions, open_backend
from perception.core.errors import MissingDependencyError, WeightsError

OPSET = 20
MAX_RELATIVE_ERROR = 1e-3
"""A graph whose output differs from torch by more than this share of the largest output is refused."""


@dataclass(frozen=True)
class Agreement:
    """Two outputs compared: largest difference, and the smallest cosine over the channel axis (axis 1)."""

    max_error: float
    min_cosine: float


def compare(actual: torch.Tensor, expected: torch.Tensor) -> Agreement:
    """Agreement of two (batch, channels, ...) outputs in float32."""
    a, b = actual.detach().cpu().float(), expected.detach().cpu().float()
    return Agreement(float((a - b).abs().max()), float(torch.cosine_similarity(a, b, dim=1).min()))


def export_key(module: nn.Module, description: str, example: torch.Tensor) -> str:
    """Name of the exported file: a hash of weights, architecture, input size, opset and torch version."""
    digest = hashlib.sha256(f"{description}|{tuple(example.shape)}|{OPSET}|{torch.__version__}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


def export_onnx(module: nn.Module, example: torch.Tensor, path: Path, input_name: str = "image", output_name: str = "tokens") -> Agreement:
    """Write `module` for inputs of exactly the size of `example` (batch, 3, height, width), and compare it with torch first.

    The file appears under its name only when onnxruntime has run it and the output agrees (MAX_RELATIVE_ERROR); raises WeightsError if not.
    """
    module = module.eval()
    with torch.inference_mode():
        expected = module(example)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        _write(module, example, partial, input_name, output_name)
        backend: Backend = open_backend("onnxruntime", partial, BackendOptions())
        agreement = compare(backend.run({input_name: example})[output_name], expected)
        backend.close()
        allowed = MAX_RELATIVE_ERROR * float(expected.abs().max())
        if not agreement.max_error <= allowed:
            raise WeightsError(f"export to {path}: differs from torch by {agreement.max_error:.2g}, allowed {allowed:.2g}; use backend = 'torch'")
        os.replace(partial, path)
    return agreement


def _write(module: nn.Module, example: torch.Tensor, path: Path, input_name: str, output_name: str) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(path),
                input_names=[input_name],
                output_names=[output_name],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise MissingDependencyError(f"export to ONNX: {error.name} is not installed; pip install onnx onnxscript") from error
    finally:
        logger.setLevel(level)
