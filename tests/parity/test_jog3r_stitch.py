"""The stitch of OpenSora's video network and DUSt3R's decoders against the composition of the official codes (shared/parity/models/jog3r_stitch)."""

import ast
import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.models.dust3r import DecoderConfig
from perception.models.jog3r import Jog3r, Jog3rConfig
from perception.models.stdit import StditConfig
from perception.models.weights import load_into

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
"""The fixture's README: relative and absolute."""

CASES = sorted(path.parent for path in PARITY.rglob("config.json") if "tap_block_index_0based" in path.read_text())


def read(path):
    with np.load(path) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def number(config, name):
    return ast.literal_eval(str(config[name]))


def jog3r_config(config):
    """Our sizes from the constructor arguments of both official networks."""
    stdit, dust3r = config["stdit"], config["dust3r"]
    frames, height, width = stdit["input_size"]
    video = StditConfig(
        num_frames=frames,
        height=height,
        width=width,
        hidden_dim=stdit["hidden_size"],
        depth=stdit["depth"],
        num_heads=stdit["num_heads"],
        caption_dim=stdit["caption_channels"],
        num_caption_tokens=stdit["model_max_length"],
        space_scale=stdit["space_scale"],
        time_scale=stdit["time_scale"],
    )
    decoder = DecoderConfig(
        feature_dim=number(dust3r, "enc_embed_dim"),
        dec_dim=number(dust3r, "dec_embed_dim"),
        dec_depth=number(dust3r, "dec_depth"),
        dec_heads=number(dust3r, "dec_num_heads"),
        head=dust3r["head_type"],
    )
    return Jog3rConfig(stdit=video, decoder=decoder, feature_block=config["tap_block_index_0based"])


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def case(request):
    folder = request.param
    network = Jog3r(jog3r_config(json.loads((folder / "config.json").read_text()))).eval()
    load_into(network, read(folder / "state_dict.npz"), str(folder))
    return network, read(folder / "inputs.npz"), read(folder / "outputs.npz")


def close(actual, expected):
    assert_close(actual.reshape(expected.shape), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_noise_features_and_point_maps_of_one_pass_are_the_official_ones(case):
    network, inputs, outputs = case
    with torch.inference_mode():
        output = network(inputs["x"], inputs["timestep"])
    close(output.prediction, outputs["stdit_eps_and_var"])
    close(output.features, outputs["tap_tokens"])
    first, other = output.reconstruction
    for maps, points, confidence in ((first, "out1_pts3d", "out1_conf"), (other, "out2_pts3d_in_frame0", "out2_conf")):
        close(maps.points, outputs[points])
        close(maps.confidence, outputs[confidence])


def test_features_alone_are_those_of_the_whole_pass_and_pairs_do_not_depend_on_each_other(case):
    network, inputs, outputs = case
    with torch.inference_mode():
        features = network.features(inputs["x"], inputs["timestep"])
        last = network.config.stdit.num_frames - 1
        alone = network.reconstruct(features, [last])
    close(features, outputs["tap_tokens"])
    expected = outputs["out2_pts3d_in_frame0"].view(len(features), last, *alone.other.points.shape[2:])
    close(alone.other.points[:, 0], expected[:, -1])
