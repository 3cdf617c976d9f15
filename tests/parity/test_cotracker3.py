"""CoTracker3 against the official code's recorded outputs, intermediate values included. See shared/parity/models/README.md."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.models.cotracker3 import OFFLINE, ONLINE, CoTracker3, CoTracker3Config
from perception.models.weights import load_into

pytestmark = pytest.mark.parity

TOLERANCE_PX, TOLERANCE_PROBABILITY, TOLERANCE = 1e-2, 1e-3, 1e-3
"""The fixture's README; the last is relative and absolute."""


def is_case(path):
    """A folder is a case of CoTracker3 by the sizes that its config names."""
    config = json.loads(path.read_text())
    return isinstance(config, dict) and {"latent", "corr_hidden", "virtual"} <= config.keys()


CASES = sorted(path.parent for path in PARITY.rglob("config.json") if is_case(path))
MANIFESTS = sorted(path for folder in CASES for path in folder.glob("full_manifest*.json"))


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def sizes(config):
    height, width = config["model_resolution"]
    return CoTracker3Config(
        feature_dim=config["latent"],
        stride_px=config["stride"],
        correlation_radius=config["corr_radius"],
        correlation_levels=config["corr_levels"],
        correlation_hidden_dim=config["corr_hidden"],
        correlation_dim=config["corr_out"],
        hidden_dim=config["hidden"],
        num_heads=config["heads"],
        time_depth=config["depth"],
        space_depth=config["depth"],
        num_virtual_tracks=config["virtual"],
        window_frames=config["window_len"],
        height_px=height,
        width_px=width,
    )


class Recording:
    """One pass of our network over the inputs of a case: estimates after each iteration, tokens, corrections and raw features."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.expected = read(folder, "outputs")
        self.state = read(folder, "state_dict")
        self.network = CoTracker3(sizes(self.config)).eval()
        load_into(self.network, self.state, str(folder))
        self.tokens, self.deltas, self.features = [], [], []
        self.network.updateformer.register_forward_hook(self._keep_update)
        self.network.fnet.register_forward_hook(self._keep_features)
        inputs = read(folder, "inputs")
        with torch.inference_mode():
            self.estimates = self.network(inputs["video"], inputs["queries"], self.config["iters"])

    def _keep_update(self, _module, inputs, output):
        self.tokens.append(inputs[0])
        self.deltas.append(output)

    def _keep_features(self, _module, _inputs, output):
        self.features.append(output)


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def recording(request):
    return Recording(request.param)


def test_features_before_normalisation_are_the_official_ones(recording):
    assert_close(torch.cat(recording.features), recording.expected["fnet_raw"], rtol=TOLERANCE, atol=TOLERANCE)


def test_tokens_of_the_first_iteration_are_the_official_ones(recording):
    assert_close(recording.tokens[0], recording.expected["token_input_iter0"], rtol=TOLERANCE, atol=TOLERANCE)


def test_corrections_of_every_iteration_are_the_official_ones(recording):
    for index, delta in enumerate(recording.deltas):
        assert_close(delta, recording.expected[f"delta_iter{index}"], rtol=TOLERANCE, atol=TOLERANCE)


def test_estimates_of_every_iteration_are_the_official_ones(recording):
    assert len(recording.estimates) == recording.config["iters"]
    for index, estimate in enumerate(recording.estimates):
        assert_close(estimate.points_px, recording.expected[f"coords_iter{index}"], rtol=0, atol=TOLERANCE_PX)
        assert_close(estimate.visibility.sigmoid(), recording.expected[f"vis_iter{index}"], rtol=0, atol=TOLERANCE_PROBABILITY)
        assert_close(estimate.confidence.sigmoid(), recording.expected[f"conf_iter{index}"], rtol=0, atol=TOLERANCE_PROBABILITY)
    last = recording.estimates[-1]
    assert_close(last.points_px, recording.expected["out_coords"], rtol=0, atol=TOLERANCE_PX)
    assert_close(last.visibility.sigmoid(), recording.expected["out_vis"], rtol=0, atol=TOLERANCE_PROBABILITY)
    assert_close(last.confidence.sigmoid(), recording.expected["out_conf"], rtol=0, atol=TOLERANCE_PROBABILITY)


def test_the_time_embedding_that_we_compute_is_the_stored_one(recording):
    assert_close(CoTracker3(recording.network.config).time_emb, recording.state["time_emb"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(PARITY)))
def test_the_published_sizes_give_every_key_and_shape_of_the_checkpoint_and_no_other(path):
    manifest = json.loads(path.read_text())
    variant = next(config for config in (OFFLINE, ONLINE) if config.window_frames == manifest["keys"]["time_emb"][1])
    with torch.device("meta"):
        network = CoTracker3(variant)
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == manifest["keys"]
    assert len(network.state_dict()) == manifest["num_keys"]
    assert sum(value.numel() for value in network.parameters()) == manifest["num_params"]
