"""STDiT and its diffusion against the recorded outputs of OpenSora 1.0, intermediate values included. See shared/parity/models/README.md."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.models.diffusion import Guidance, add_noise, linear_schedule, mix_guidance, previous_step, training_losses
from perception.models.stdit import Stdit, StditConfig
from perception.models.weights import load_into

pytestmark = pytest.mark.parity

TOLERANCE, CONSTANTS_TOLERANCE = 1e-4, 1e-10
"""The fixtures' README: relative and absolute; the schedule is float64."""


def cases(*names):
    """Folders whose config names these settings."""
    configs = {path.parent: json.loads(path.read_text()) for path in sorted(PARITY.rglob("config.json"))}
    return [folder for folder, config in configs.items() if isinstance(config, dict) and set(names) <= config.keys()]


NETWORKS = cases("input_size", "space_scale", "caption_channels")
DIFFUSIONS = cases("respaced_index", "cfg_scale")
MANIFESTS = [path for folder in NETWORKS for path in sorted(folder.glob("full_manifest*.json"))]


def read(path):
    with np.load(path) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def stdit_config(config, state):
    """Our sizes from the constructor arguments of a fixture; channels and patch from its weights."""
    frames, height, width = config["input_size"]
    return StditConfig(
        num_frames=frames,
        height=height,
        width=width,
        latent_channels=state["x_embedder.proj.weight"].shape[1],
        patch_size=state["x_embedder.proj.weight"].shape[-1],
        hidden_dim=config["hidden_size"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        caption_dim=config["caption_channels"],
        num_caption_tokens=config["model_max_length"],
        space_scale=config["space_scale"],
        time_scale=config["time_scale"],
    )


def load_stdit(folder, state):
    network = Stdit(stdit_config(json.loads((folder / "config.json").read_text()), state)).eval()
    load_into(network, state, str(folder))
    return network


def close(actual, expected, tolerance=TOLERANCE):
    assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)


class Recording:
    """The outputs of every module of interest in one pass."""

    MODULES = {  # noqa: RUF012
        "x_embedder": "x_embed",
        "t_embedder": "t_emb",
        "t_block": "t_block",
        "y_embedder": "y_emb",
        "blocks.0.attn": "block0_attn_spatial_BT_S_C",
        "blocks.0.attn_temp": "block0_attn_temporal_BS_T_C",
        "blocks.0.cross_attn": "block0_cross",
    }

    def __init__(self, network):
        self.values = {}
        names = self.MODULES | {f"blocks.{index}": f"block_{index}" for index in range(network.config.depth)}
        for name, key in names.items():
            network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output, key=key: self.values.update({key: output}))


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda folder: str(folder.relative_to(PARITY)))
def case(request):
    folder = request.param
    network = load_stdit(folder, read(folder / "state_dict.npz"))
    return network, read(folder / "inputs.npz"), read(folder / "outputs.npz")


@pytest.mark.parametrize("prompt", ["masked", "nomask", "null_prompt"])
def test_every_recorded_value_of_the_network_is_the_official_one(case, prompt):
    network, inputs, outputs = case
    recording = Recording(network)
    captions = network.null_prompt(len(inputs["x"])) if prompt == "null_prompt" else inputs["y"][:, 0]
    with torch.inference_mode():
        out = network(inputs["x"], inputs["timestep"], captions, inputs["mask"] if prompt == "masked" else None)
    recording.values["out"] = out
    expected = {key.removeprefix(f"{prompt}_"): value for key, value in outputs.items() if key.startswith(f"{prompt}_")}
    assert "out" in expected
    for key, value in expected.items():
        close(recording.values[key].reshape(value.shape), value)


def test_the_positions_that_we_compute_are_the_stored_ones(case):
    network, _, _ = case
    ours = Stdit(network.config)
    close(ours.pos_embed, network.pos_embed, 1e-6)
    close(ours.pos_embed_temporal, network.pos_embed_temporal, 1e-6)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(PARITY)))
def test_the_published_sizes_give_every_key_and_shape_of_the_checkpoint_and_no_other(path):
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        network = Stdit()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == manifest["keys"]
    assert len(network.state_dict()) == manifest["num_keys"]
    assert sum(value.numel() for value in network.parameters()) == manifest["num_params"]
    assert sorted(name for name, _ in network.named_buffers()) == sorted(manifest["buffers"])


@pytest.fixture(scope="module", params=DIFFUSIONS, ids=lambda folder: str(folder.relative_to(PARITY)))
def diffusion(request):
    folder = request.param
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / config["model"]).resolve()
    return load_stdit(weights.parent, read(weights)), config, read(folder / "inputs.npz"), read(folder / "outputs.npz")


def test_the_schedule_is_the_official_one(diffusion):
    _, _, _, outputs = diffusion
    schedule = linear_schedule(len(outputs["betas"]))
    names = ("betas", "alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2")
    for name in names:
        assert_close(getattr(schedule, name), outputs[name], rtol=CONSTANTS_TOLERANCE, atol=0)
    for key in (key for key in outputs if key.startswith("respaced") and key.endswith("_betas")):
        prefix = key.removesuffix("_betas")
        fewer = schedule.respaced(int(prefix.removeprefix("respaced")))
        assert_close(fewer.betas, outputs[key], rtol=CONSTANTS_TOLERANCE, atol=0)
        assert torch.equal(fewer.timesteps, outputs[f"{prefix}_timestep_map"])


def test_losses_and_their_gradients_are_the_official_ones(diffusion):
    network, config, inputs, outputs = diffusion
    assert inputs["t"].tolist() == config["train_t"]
    schedule = linear_schedule(len(outputs["betas"]))
    close(add_noise(schedule, inputs["x0"], inputs["t"], inputs["noise"]), outputs["q_sample"], 1e-6)

    def predict(noisy, timesteps):
        return network(noisy, timesteps, inputs["y"][:, 0], inputs["mask"])

    network.zero_grad()
    losses = training_losses(schedule, predict, inputs["x0"], inputs["t"], inputs["noise"])
    for name, loss in (("vb", losses.variational), ("mse", losses.squared_error), ("loss", losses.total)):
        close(loss, outputs[f"train_{name}"])
    losses.total.mean().backward()
    parameters = dict(network.named_parameters())
    for key in (key for key in outputs if key.startswith("grad_")):
        close(parameters[key.removeprefix("grad_")].grad, outputs[key])


def test_a_step_with_guidance_is_the_official_one(diffusion):
    network, config, inputs, outputs = diffusion
    prefix = f"cfg{config['cfg_scale']:g}_step{config['respaced_index']}"
    keys = [key for key in outputs if key.startswith("cfg")]
    assert keys
    assert all(key.startswith(prefix) for key in keys)
    num_steps = next(len(value) for key, value in outputs.items() if key.startswith("respaced") and key.endswith("_betas"))
    schedule = linear_schedule(len(outputs["betas"])).respaced(num_steps)
    noisy = torch.cat([inputs["z"], inputs["z"]])
    index = torch.full((len(noisy),), config["respaced_index"])
    with torch.inference_mode():
        prediction = network(noisy, schedule.timesteps[index], inputs["y_cfg"][:, 0], inputs["mask_cfg"])
    step = previous_step(schedule, mix_guidance(prediction, Guidance(scale=config["cfg_scale"])), noisy, index)
    for name, value in (("mean", step.mean), ("variance", step.variance), ("log_variance", step.log_variance), ("pred_xstart", step.clean)):
        close(value, outputs[f"{prefix}_{name}"])
