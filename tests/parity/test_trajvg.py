"""TrajVG and its tracker alone against the official code's recorded outputs, intermediate values included. See shared/parity/models/README.md.

The tracker is chaotic, so every iteration is also checked by itself, from the official inputs.
"""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close
from torch import nn

from perception.models.pi3 import BackboneConfig
from perception.models.trajvg import Tracker, TrackerConfig, TrajVG, TrajVGConfig, trajvg_released
from perception.models.trajvg.config import NUM_DEGREES
from perception.models.weights import load_into

pytestmark = pytest.mark.parity

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""The fixture's README; trajectories in units of their deviation."""
TIES = 10
"""Times the difference that exact distances make to the official trajectories (`knn64_maxdiff` of a case): what later iterations may be off."""
ENCODED = 0.2
"""For tokens: sines of angles of up to thousands. Columns that hold no such sine keep to ABSOLUTE."""


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def cases(marker):
    """Folders whose outputs hold the tensor `marker`."""
    found = []
    for path in PARITY.rglob("outputs.npz"):
        with np.load(path) as stored:
            if marker in stored and path.with_name("state_dict.npz").is_file():
                found.append(path.parent)
    return sorted(found)


NETWORK_CASES, TRACKER_CASES = cases("track_fmaps_normed_bshwc"), cases("traj3d_cam_iter0")
MANIFESTS = sorted(path for folder in NETWORK_CASES for path in folder.glob("full_manifest*.json"))


def named(folder):
    return str(folder.relative_to(PARITY))


def tracker_sizes(config):
    return TrackerConfig(
        feature_dim=config["latent"],
        stride_px=config["stride"],
        num_levels=config["corr_levels"],
        num_neighbours=config["k"],
        hidden_dim=config["hidden"],
        num_heads=config["updater_heads"],
        depth=config["depth"],
        num_virtual_tracks=config["virtual_tracks"],
        num_iterations=config["iters"],
    )


def sizes(config):
    assert config["posenc_deg"][1] - config["posenc_deg"][0] == NUM_DEGREES
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
    return TrajVGConfig(
        backbone=backbone,
        head_dim=config["E"],
        head_num_heads=config["heads"],
        head_depth=config["head_depth"],
        camera_dim=config["cam_dim"],
        upsample_dims=config["up"],
        feature_pairs=config["dpt_layers"],
        reassembled_dims=config["dpt_out"],
        tracker=tracker_sizes(config["track"]),
        token_layout="released",
        query_sampling="nearest",
    )


class TrackerRecording:
    """What a tracker says in a pass: `values` by the fixture's names, without their prefix."""

    def __init__(self, tracker, config):
        self.tracker, self.ties, self.values, self.levels, self.queries = tracker, config.get("knn64_maxdiff", 0.0), {}, None, None
        tracker.corr_module.register_forward_hook(self._keep_correlations)
        tracker.updateformer.register_forward_hook(self._keep_update)
        tracker.fmap_norm.register_forward_hook(lambda _module, _inputs, output: self.values.update(fmaps_normed_bshwc=output))

    def _count(self, name):
        return sum(key.startswith(name) for key in self.values)

    def _keep_correlations(self, _module, inputs, output):
        self.levels, self.queries = inputs[:2]
        index = self._count("corr_iter")
        self.values[f"normcoords_in_iter{index}"], self.values[f"corr_iter{index}"] = inputs[2], output

    def _keep_update(self, _module, inputs, output):
        index = self._count("delta_iter")
        self.values[f"tokens_in_iter{index}"], self.values[f"delta_iter{index}"] = inputs[0], output

    def keep_tracks(self, estimates, visibility):
        self.values.update({f"traj3d_cam_iter{index}": estimate.points for index, estimate in enumerate(estimates)})
        self.values[visibility] = estimates[-1].visibility.sigmoid()


class AloneRecording(TrackerRecording):
    """The tracker alone over the inputs of its case."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        tracker = Tracker(tracker_sizes(config)).eval()
        super().__init__(tracker, config)
        load_into(nn.ModuleDict({"tracker": tracker}), read(folder, "state_dict"), str(folder))
        inputs, self.expected = read(folder, "inputs"), read(folder, "outputs")
        maps = inputs["pointmaps"].unflatten(0, inputs["fmaps"].shape[:2])
        with torch.inference_mode():
            estimates = tracker(inputs["fmaps"], maps, inputs["query_points2d"], inputs["query_points3d"])
        self.keep_tracks(estimates, "vis_sigmoid")


class NetworkRecording(TrackerRecording):
    """The whole network over the inputs of its case."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        network = TrajVG(sizes(config)).eval()
        super().__init__(network.tracker, config)
        load_into(network, read(folder, "state_dict"), str(folder))
        inputs, stored = read(folder, "inputs"), read(folder, "outputs")
        self.expected = {name.removeprefix("track_"): value for name, value in stored.items()}
        parts = {}
        modules = {"enc_patchtokens": network.encoder, "fmaps": network.track_decoder, "point_head": network.point_head}
        modules |= {f"{kind}_hidden": getattr(network, f"{kind}_decoder") for kind in ("point", "conf", "camera")}
        for name, module in modules.items():
            module.register_forward_hook(lambda _module, _inputs, output, name=name: parts.setdefault(name, []).append(output))
        network.tracker.register_forward_pre_hook(lambda _module, inputs: self.values.update(query_points3d=inputs[3]))
        with torch.inference_mode():
            features = network.features(inputs["imgs"], range(network.backbone_config.num_pairs))
            parts.clear()
            estimate = network(inputs["imgs"], inputs["query_points"])
        heads = parts.pop("point_head")
        self.values |= {name: torch.cat(values) for name, values in parts.items()}
        self.values["fmaps"] = self.values["fmaps"].unflatten(0, inputs["imgs"].shape[:2])
        self.values["point_head_xy"], self.values["point_head_logz"] = (torch.cat([part[index] for part in heads]) for index in range(2))
        self.values["dec_final_cat"] = features.tokens
        for index, pair in features.pairs.items():
            num_tokens, dim = pair.shape[1:]
            self.values[f"dec_pair_{index}_reshaped"] = pair.reshape(*inputs["imgs"].shape[:2], dim, num_tokens)
        self.keep_tracks(estimate.tracks, "out_vis_scores")
        self.values |= {f"out_traj3d_world_iter{index}": points for index, points in enumerate(estimate.world_tracks())}
        self.values["out_points"], self.values["out_local_points"] = estimate.world_points, estimate.local_points
        self.values["out_conf"], self.values["out_camera_poses"] = estimate.confidence[..., None], estimate.world_from_camera


@pytest.fixture(
    scope="module",
    params=[(NetworkRecording, case) for case in NETWORK_CASES] + [(AloneRecording, case) for case in TRACKER_CASES],
    ids=lambda case: named(case[1]),
)
def recording(request):
    make, folder = request.param
    return make(folder)


def test_every_stored_value_is_the_official_one(recording):
    for name, expected in recording.expected.items():
        found = recording.values[name]
        assert found.shape == expected.shape, name
        if name.startswith("tokens_in"):
            assert_close(found, expected, rtol=0, atol=ENCODED)
            continue
        scale = float(expected.std()) if "traj3d" in name else 1.0
        tied = "_iter" in name and not name.endswith("iter0")
        slack = TIES * recording.ties if tied or "vis" in name else 0.0
        assert_close(found / scale, expected / scale, rtol=RELATIVE, atol=ABSOLUTE + slack / scale)


def test_columns_of_tokens_that_hold_no_fast_sines_are_the_official_ones(recording):
    coordinates = 3
    encoded = coordinates * (1 + 2 * NUM_DEGREES)
    slow = 4  # frequencies up to 2^1: an error of a coordinate is at most doubled
    offsets = torch.tensor([degree * coordinates + axis for degree in range(slow) for axis in range(coordinates)])
    columns = [torch.tensor([0])]
    for start in (1, 1 + encoded):
        sines = start + coordinates + offsets
        columns += [torch.arange(start, start + coordinates), sines, sines + coordinates * NUM_DEGREES]
    columns = torch.cat(columns)
    for index in range(recording.tracker.config.num_iterations):
        name = f"tokens_in_iter{index}"
        found, expected = recording.values[name], recording.expected[name]
        slack = TIES * recording.ties if index else 0.0
        assert_close(found[..., columns], expected[..., columns], rtol=RELATIVE, atol=ABSOLUTE + slack)
        assert_close(found[..., 1 + 2 * encoded :], expected[..., 1 + 2 * encoded :], rtol=RELATIVE, atol=ABSOLUTE + slack)


def test_each_iteration_alone_gives_the_official_correlations_and_corrections(recording):
    tracker = recording.tracker
    levels, queries = list(recording.levels), list(recording.queries)
    for index in range(tracker.config.num_iterations):
        with torch.inference_mode():
            correlations = tracker.corr_module(levels, queries, recording.expected[f"normcoords_in_iter{index}"])
            delta = tracker.updateformer(recording.expected[f"tokens_in_iter{index}"])
        assert_close(correlations, recording.expected[f"corr_iter{index}"], rtol=RELATIVE, atol=ABSOLUTE)
        assert_close(delta, recording.expected[f"delta_iter{index}"], rtol=RELATIVE, atol=ABSOLUTE / 10)


@pytest.mark.parametrize("path", MANIFESTS, ids=named)
def test_the_published_sizes_give_every_key_and_shape_of_the_checkpoint_and_no_other(path):
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        network = TrajVG(trajvg_released())
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == manifest["keys"]
    assert len(network.state_dict()) == manifest["num_keys"]
    assert sum(value.numel() for value in network.parameters()) == manifest["num_params"]
    assert sorted(name for name, _ in network.named_buffers()) == sorted(manifest["buffers"])
