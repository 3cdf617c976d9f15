"""The only place where tolerances by dtype are set, and where fixtures and data are found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

TOLERANCE = {
    "float64": dict(rtol=1e-9, atol=1e-9),
    "float32": dict(rtol=1e-4, atol=1e-5),
    "bfloat16": dict(rtol=2e-2, atol=2e-2),
    "float16": dict(rtol=2e-3, atol=2e-3),
}

_ROOT = Path(__file__).resolve().parents[2]
PARITY = Path(os.environ.get("PERCEPTION_PARITY", _ROOT.parent / "shared" / "parity"))
DATA = Path(os.environ.get("PERCEPTION_DATA", _ROOT.parent / "shared" / "data"))


def assert_close(actual: object, expected: object, **override: float) -> None:
    """Equal within the tolerance of the less exact dtype of the two (NaN equals NaN); `rtol`, `atol` override."""
    a, b = (
        x.detach().cpu().float().numpy() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else np.asarray(x) for x in (actual, expected)
    )
    names = [str(x.dtype).removeprefix("torch.") for x in (actual, expected) if hasattr(x, "dtype")]
    loosest = max((TOLERANCE[name] for name in names if name in TOLERANCE), key=lambda t: t["atol"], default=TOLERANCE["float64"])
    np.testing.assert_allclose(a, b, equal_nan=True, **{**loosest, **override})
