"""DUSt3R against the official code's recorded outputs, intermediate values included; names of the public checkpoints."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.models.dust3r import CroCo, DUSt3R, DUSt3RConfig, dpt, from_public, linear, to_public
from perception.models.weights import load_into

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
"""The fixture's README, relative and absolute."""


def is_case(path):
    config = json.loads(path.read_text())
    return isinstance(config, dict) and {"enc_embed_dim", "dec_embed_dim", "head_type", "H", "W"} <= config.keys()


CASES = sorted(path.parent for path in PARITY.rglob("config.json") if is_case(path))
MANIFESTS = sorted(path for folder in CASES for path in folder.glob("full_manifest*.json"))


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def sizes_of(config, state):
    head = config["head_type"]
    fusion = {}
    if head == "dpt":
        levels = [state[f"downstream_head1.dpt.scratch.layer{level}_rn.weight"].shape for level in (1, 2, 3, 4)]
        fusion = {"dpt_dim": levels[0][0], "dpt_layer_dims": tuple(level[1] for level in levels)}
    return DUSt3RConfig(
        feature_dim=config["enc_embed_dim"],
        enc_depth=config["enc_depth"],
        enc_heads=config["enc_num_heads"],
        dec_dim=config["dec_embed_dim"],
        dec_depth=config["dec_depth"],
        dec_heads=config["dec_num_heads"],
        head=head,
        **fusion,
    )


class Recording:
    """One pass of our network over the inputs of a case, with what every part gave."""

    def __init__(self, folder):
        self.expected = read(folder, "outputs")
        state = read(folder, "state_dict")
        network = DUSt3R(sizes_of(json.loads((folder / "config.json").read_text()), state)).eval()
        load_into(network, from_public(state), str(folder))
        self.found = {}
        self._keep(network.encoder, "enc_feat_cat12")
        for side, blocks in (("dec1", network.dec_blocks), ("dec2", network.dec_blocks2)):
            for number, block in enumerate(blocks):
                self._keep(block, f"{side}_block{number}")
        for side in (1, 2):
            head = getattr(network, f"downstream_head{side}")
            self._keep(getattr(head, "proj", head), f"head{side}_proj")
        inputs = read(folder, "inputs")
        with torch.inference_mode():
            result = network(inputs["img1"], inputs["img2"])
        names = ("out1_pts3d", "out1_conf", "out2_pts3d_in_other_view", "out2_conf")
        self.found |= dict(zip(names, result, strict=True))

    def _keep(self, module, name):
        module.register_forward_hook(lambda _module, _inputs, output: self.found.setdefault(name, output))


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def recording(request):
    return Recording(request.param)


def test_features_blocks_heads_and_point_maps_are_the_official_ones(recording):
    assert len(recording.expected) >= 5
    for name, expected in recording.expected.items():
        assert_close(recording.found[name], expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(PARITY)))
def test_the_published_sizes_give_every_key_and_shape_of_the_checkpoints_and_no_other(path):
    manifest = json.loads(path.read_text())
    keys = manifest["keys"]
    with torch.device("meta"):
        sizes = dpt() if any(".dpt." in key for key in keys) else linear()
        network = CroCo(sizes) if "prediction_head.weight" in keys else DUSt3R(sizes)
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert to_public(ours) == keys
    assert from_public(keys) == ours
    assert len(keys) == manifest["num_keys"]
    assert sum(value.numel() for value in network.parameters()) == manifest["num_params"]
