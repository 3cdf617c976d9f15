"""Position embeddings on a finer grid against the outputs of the released 3DCorrEnhance program."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.models.vit import interpolate_positions

FILE = PARITY / "features-and-metrics" / "mef_misc.npz"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is absent")]


def cases() -> list[str]:
    if not FILE.exists():
        return []
    with np.load(FILE) as arrays:
        return sorted(case for case in json.loads(str(arrays["meta_json"])) if case.startswith("posenc"))


@pytest.mark.parametrize("case", cases())
def test_interpolate_positions(case: str) -> None:
    with np.load(FILE) as arrays:
        meta = json.loads(str(arrays["meta_json"]))[case]
        own, expected = (torch.from_numpy(arrays[f"{case}/{name}"]) for name in ("pos_embed", "out"))
    # The program's w is the number of image rows.
    rows, cols = (1 + (meta[side] - meta["patch"]) // meta["stride"] for side in ("w_arg", "h_arg"))
    patches = interpolate_positions(own[:, 1:], rows, cols)
    assert_close(torch.cat((own[:, :1], patches), 1), expected, rtol=0, atol=1e-5)
