"""Pi3 against the official code's recorded outputs, intermediate values included. See shared/parity/models/README.md."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.models.pi3 import BackboneConfig, Pi3, Pi3Config, pi3_large
from perception.models.weights import load_into

pytestmark = pytest.mark.parity

TOLERANCE, TOLERANCE_ROTATION = 1e-4, 1e-5
"""The fixture's README: the first relative and absolute, and relative to their deviation for points in the world."""


def is_case(path):
    """A folder is a case of Pi3 by the outputs that it holds."""
    if not path.with_name("outputs.npz").is_file() or not path.with_name("state_dict.npz").is_file():
        return False
    with np.load(path.with_name("outputs.npz")) as stored:
        return {"point_head_raw", "cam_rot9_raw", "out_local_points"} <= set(stored)


CASES = sorted(path.parent for path in PARITY.rglob("config.json") if is_case(path))
MANIFESTS = sorted(path for folder in CASES for path in folder.glob("full_manifest*.json"))


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def sizes(config):
    backbone = BackboneConfig(
        dim=config["E"],
        num_heads=config["heads"],
        patch_px=config["patch"],
        image_px=config["img_size"],
        encoder_depth=config["dino_depth"],
        encoder_registers=config["dino_registers"],
        decoder_depth=config["dec_depth"],
        decoder_registers=config["decoder_registers"],
        rotary_base=float(config["rope_freq"]),
    )
    return Pi3Config(
        backbone=backbone, head_dim=config["E"], head_num_heads=config["heads"], head_depth=config["head_depth"], camera_dim=config["cam_dim"]
    )


class Recording:
    """One pass of our network over the inputs of a case, with the outputs of its modules by the fixture's names."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.expected = read(folder, "outputs")
        network = Pi3(sizes(config)).eval()
        load_into(network, read(folder, "state_dict"), str(folder))
        self.values = {}
        named = {
            "enc_patchtokens": network.encoder,
            **{f"dec_block_{index}": block for index, block in enumerate(network.decoder)},
            **{f"{kind}_hidden": getattr(network, f"{kind}_decoder") for kind in ("point", "conf", "camera")},
            "point_head_raw": network.point_head,
            "cam_t_raw": network.camera_head.fc_t,
            "cam_rot9_raw": network.camera_head.fc_rot,
        }
        for name, module in named.items():
            module.register_forward_hook(lambda _module, _inputs, output, name=name: self.values.setdefault(name, []).append(output))
        with torch.inference_mode():
            estimate = network(read(folder, "inputs")["imgs"])
        self.values = {name: torch.cat(parts) for name, parts in self.values.items()}
        self.values["point_head_raw"] = self.values["point_head_raw"].permute(0, 2, 3, 1)
        self.values["out_local_points"], self.values["out_points"] = estimate.local_points, estimate.world_points
        self.values["out_conf"], self.values["out_camera_poses"] = estimate.confidence[..., None], estimate.world_from_camera


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def recording(request):
    return Recording(request.param)


def test_every_stored_value_is_the_official_one(recording):
    for name, expected in recording.expected.items():
        scale = float(expected.std()) if name == "out_points" else 1.0
        assert recording.values[name].shape == expected.shape, name
        assert_close(recording.values[name] / scale, expected / scale, rtol=TOLERANCE, atol=TOLERANCE)


def test_rotations_are_the_official_ones(recording):
    rotations = [poses[..., :3, :3] for poses in (recording.values["out_camera_poses"], recording.expected["out_camera_poses"])]
    assert_close(*rotations, rtol=0, atol=TOLERANCE_ROTATION)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(PARITY)))
def test_the_published_sizes_give_every_key_and_shape_of_the_checkpoint_and_no_other(path):
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        network = Pi3(pi3_large())
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == manifest["keys"]
    assert len(network.state_dict()) == manifest["num_keys"]
    assert sum(value.numel() for value in network.parameters()) == manifest["num_params"]
    assert sorted(name for name, _ in network.named_buffers()) == sorted(manifest["buffers"])
