"""SmoothAP as the released code of MEF computes it: values and gradients of 3DCorrEnhance's `training_step`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.ops.smooth_ap import smooth_ap_loss

FILE = PARITY / "features-and-metrics" / "smoothap.npz"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not FILE.is_file(), reason=f"no fixtures at {FILE}")]


def cases() -> list:
    if not FILE.is_file():
        return []
    with np.load(FILE) as arrays:
        names = json.loads(str(arrays["meta_json"]))
        found = [pytest.param({key.split("/")[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}, id=name) for name in names]
    assert found, f"{FILE} holds no cases"
    return found


@pytest.mark.parametrize("arrays", cases())
def test_loss_gradients_and_positives_are_those_of_the_released_code(arrays):
    descriptors = [torch.from_numpy(arrays[f"desc_{view}"]).requires_grad_() for view in (1, 2)]
    points = [torch.from_numpy(arrays[f"pts3d_{view}"]) for view in (1, 2)]
    result = smooth_ap_loss(*descriptors, *points)
    assert int(result.num_anchors) == int(arrays["n_pos"])
    if not int(arrays["n_pos"]):
        assert float(result.loss) == 0  # the released code gives NaN there
        return
    result.loss.backward()
    is_double = arrays["loss"].dtype == np.float64
    assert_close(result.loss.detach(), arrays["loss"], rtol=0.0, atol=1e-12 if is_double else 1e-5)
    for view, descriptor in zip((1, 2), descriptors, strict=True):
        expected = arrays[f"grad_desc_{view}"]
        assert_close(descriptor.grad, expected, rtol=0.0, atol=1e-9 * np.abs(expected).max() if is_double else 1e-5)
