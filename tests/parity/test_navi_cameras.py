"""Poses of the NAVI reader against Probe3D's camera_matrices_from_annotation. See shared/parity/features-and-metrics/README.md."""

import json

import numpy as np
import pytest
from tests.support.closeness import PARITY, assert_close

from perception_training.data.readers import open_dataset

pytestmark = pytest.mark.parity

CASES = [
    (path, name.removesuffix("/q")) for path in sorted(PARITY.rglob("probe3d_snorm*.npz")) for name in np.load(path).files if name.endswith("/q")
]


@pytest.mark.skipif(not CASES, reason="no fixture of Probe3D's cameras")
def test_the_object_is_where_the_official_matrix_has_it(tmp_path):
    for number, (path, case) in enumerate(CASES):
        with np.load(path) as stored:
            q, t, expected = (stored[f"{case}/{name}"] for name in ("q", "t", "Rt"))
        scene = tmp_path / f"object_{number}" / "wild_set"
        scene.mkdir(parents=True)
        camera = {"q": q.tolist(), "t": t.tolist(), "focal_length": 3024.0}
        entry = {"camera": camera, "filename": "000.jpg", "image_size": [3024, 4032], "split": "train", "occluded": False}
        (scene / "annotations.json").write_text(json.dumps([entry]))
        sequence = open_dataset("navi", tmp_path).open_sequence(f"object_{number}/wild_set")
        found = np.linalg.inv(sequence.world_from_camera[0])
        found[:3, 3] *= 1000  # the fixture has millimetres, as the files
        assert_close(found, expected)
