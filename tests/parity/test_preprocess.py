"""Loading of images, masks of edges and inverse poses against what the official code of Pi3 and TrajVG records."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.geometry import se3
from perception.geometry.depth_edges import depth_and_normal_edges, depth_edges
from perception.models.pi3 import prepare_images, target_size

pytestmark = pytest.mark.parity

TOLERANCE_IMAGE, TOLERANCE_INVERSE = 1e-6, 1e-6
"""The fixture's README, for images made by Pillow."""


def is_case(path):
    config = json.loads(path.read_text())
    return isinstance(config, dict) and "pixel_limit_loaded" in config


CASES = sorted(path.parent for path in PARITY.rglob("config.json") if is_case(path))


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def case(request):
    config = json.loads((request.param / "config.json").read_text())
    with np.load(request.param / "inputs.npz") as inputs, np.load(request.param / "outputs.npz") as outputs:
        return config, dict(inputs), dict(outputs)


def test_sizes_for_every_budget_are_the_official_ones(case):
    config, inputs, outputs = case
    budgets = [name for name in outputs if name.startswith("target_wh_")]
    assert budgets
    for name in budgets:
        sizes = [target_size(int(w), int(h), int(name.removeprefix("target_wh_")), config["patch"]) for w, h in inputs["sizes_wh"]]
        np.testing.assert_array_equal(sizes, outputs[name])


def test_images_are_the_official_ones(case):
    config, inputs, outputs = case
    names = sorted((name for name in inputs if name.startswith("img")), key=lambda name: int(name.removeprefix("img")))
    images = prepare_images([inputs[name] for name in names], config["pixel_limit_loaded"], config["patch"])
    assert_close(images, outputs["pi3_loaded"], rtol=0, atol=TOLERANCE_IMAGE)


def test_inverse_poses_are_the_official_ones(case):
    _, inputs, outputs = case
    assert_close(se3.inverse(torch.from_numpy(inputs["se3"])), outputs["se3_inverse"], rtol=0, atol=TOLERANCE_INVERSE)


def test_masks_of_edges_are_the_official_ones(case):
    """Names of outputs: depth_edge or depth_normal_edge, the relative step, and `masked` where the mask of valid pixels was given."""
    _, inputs, outputs = case
    depth, points, valid = (torch.from_numpy(inputs[name]) for name in ("depth", "points", "mask"))
    names = [name for name in outputs if "_edge_rtol" in name]
    assert names
    for name in names:
        kind, _, rest = name.partition("_edge_rtol")
        step, _, masked = rest.partition("_")
        chosen = valid if masked else None
        function, values = (depth_edges, depth) if kind == "depth" else (depth_and_normal_edges, points)
        edges = function(values, chosen, relative_step=float(step))
        np.testing.assert_array_equal(edges.numpy().reshape(outputs[name].shape), outputs[name], err_msg=name)
