"""Published helpers of MEF's evaluation: descriptor interpolation, letterboxed keypoints, back-projected pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.core.types import Camera, Grid
from perception.geometry import camera as camera_geometry
from perception.geometry import se3
from perception.ops.sampling import letterbox_keypoints, sample_map

FILE = PARITY / "features-and-metrics" / "mef_misc.npz"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not FILE.is_file(), reason=f"no fixtures at {FILE}")]


def cases(kind: str) -> list:
    if not FILE.is_file():
        return []
    with np.load(FILE) as arrays:
        meta = json.loads(str(arrays["meta_json"]))
        found = [
            (settings, {key.split("/")[1]: arrays[key] for key in arrays.files if key.startswith(f"{case}/")})
            for case, settings in meta.items()
            if case.startswith(kind)
        ]
    assert found, f"{FILE} holds no case {kind}*"
    return found


@pytest.mark.parametrize(("settings", "arrays"), cases("interp"))
def test_sample_map_reproduces_interpolate_features(settings, arrays):
    grid = Grid((settings["patch"] / 2,) * 2, (float(settings["stride"]),) * 2)
    sampled = sample_map(torch.from_numpy(arrays["desc"]), arrays["pts_xy"], grid, normalize=settings["normalize"])
    assert_close(sampled.transpose(1, 2), arrays["out"], atol=1e-5)


@pytest.mark.parametrize(("settings", "arrays"), cases("kpspad"))
def test_letterbox_keypoints_reproduces_preprocess_kps_pad(settings, arrays):
    keypoints, offset, scale = letterbox_keypoints(arrays["kps"], settings["img_w"], settings["img_h"], settings["size"])
    assert_close(keypoints, arrays["out"], atol=1e-5)
    assert offset == (settings["offset_x"], settings["offset_y"])
    assert scale == settings["scale"]


@pytest.mark.parametrize(("settings", "arrays"), cases("backproj"))
def test_lifted_pixels_reproduce_img_coord_2_obj_coord(settings, arrays):
    height, width = arrays["depth"].shape
    camera = Camera.from_matrix(arrays["K"], width, height)
    points = camera_geometry.lift_points(arrays["kp2d"], arrays["depth"], camera)
    assert_close(se3.transform_points(se3.inverse(arrays["pose_obj2cam"]), points), arrays["out"], atol=1e-5)
