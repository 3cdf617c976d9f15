"""MEF: adapters, pairs of points, the task in the engine, recipes and few-shot curves; on a tiny random network and primitives."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.closeness import assert_close
from tests.support.miniatures.mvimgnet import write_mvimgnet
from tests.support.miniatures.objaverse import write_objaverse
from tests.support.miniatures.scene import miniature_scene, seen_by
from tests.support.miniatures.seven_scenes import write_seven_scenes

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.camera import project
from perception.models.adapter import apply_adapter, read_adapter
from perception.models.extractor import ExtractorConfig
from perception.models.registry import create_extractor
from perception_training.data.augmentation import AugmentationConfig, ShiftScaleRotateConfig, augment
from perception_training.data.collation import collate
from perception_training.data.layouts.objaverse_renders import PUBLISHED_CAMERA
from perception_training.data.readers import open_dataset
from perception_training.data.synthetic.mesh_views import MeshViews
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import render_clip
from perception_training.loop.training import train
from perception_training.methods.mef import MefLossConfig, MefNetwork, MefNetworkConfig, mef_terms
from perception_training.methods.pair_data import ChosenSequences, KeptFrames, PairPointsConfig, draw_points
from perception_training.recipes import RECIPES, make_recipe
from perception_training.recipes.mef_few_shot import BY_ITERATIONS_FILE, BY_OBJECTS_FILE, CSV_FILE, few_shot_curves
from perception_training.recipes.mef_task import ADAPTER_FILE, PairSource

TINY = MefNetworkConfig(extractor="tiny_dinov2")
VIEWS = {"views": {"size_px": 96, "supersampling": 1}}
NAMES = sorted(name for name in RECIPES if name.startswith("mef_"))


@pytest.fixture(scope="module")
def sample():
    sequence = open_dataset("primitives", ".", VIEWS)[0]
    return sequence.load([20, 24])


def noise(num: int, side: int = 56) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shaken(network: MefNetwork) -> MefNetwork:
    """With changes that are not zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network.eval()


# Network


def test_with_identity_convolutions_training_begins_at_the_network_as_it_was():
    network = MefNetwork(replace(TINY, conv_start="identity", num_convs=2)).eval()
    plain = create_extractor(ExtractorConfig(extractor="tiny_dinov2")).network
    plain.prepare(56, 56)
    assert_close(network(noise(1)).detach(), plain(noise(1) / 255).detach())


def test_queries_and_values_of_the_last_blocks_are_trained_and_nothing_else():
    network = MefNetwork(replace(TINY, lora_blocks=1))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {
        *(
            f"dense.network.model.encoder.layer.1.attention.{layer}.lora_{part}.default.weight"
            for layer in ("q_proj", "v_proj")
            for part in ("A", "B")
        ),
        "dense.convs.0.weight",
        "dense.convs.0.bias",
    }


@pytest.mark.parametrize("extractor", ["tiny_dino", "tiny_mae", "tiny_dinov2_reg", "tiny_dinov3", "tiny_clip", "tiny_deit_distilled"])
def test_every_family_of_vits_can_be_adapted(extractor):
    network = MefNetwork(MefNetworkConfig(extractor=extractor))
    side = 4 * network.dense.multiple_px
    network(noise(2, side)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


def test_an_exported_adapter_makes_the_plain_network_the_trained_one(tmp_path):
    from perception_training.loop.tensor_files import write_tensors

    network = shaken(MefNetwork(TINY))
    adapter = network.adapter()
    write_tensors(tmp_path / "adapter.safetensors", adapter.tensors(), adapter.metadata())
    found = read_adapter(tmp_path / "adapter.safetensors")
    plain = create_extractor(ExtractorConfig(extractor="tiny_dinov2")).network
    merged = apply_adapter(plain, found, "adapter")
    merged.prepare(56, 56)
    assert found.extractor == "tiny_dinov2"
    assert_close(merged(noise(1) / 255).detach(), network(noise(1)).detach())
    assert (tmp_path / "adapter.safetensors").stat().st_size < 200_000


def test_an_adapter_of_another_architecture_is_refused_and_changes_nothing():
    adapter = shaken(MefNetwork(TINY)).adapter()
    other = create_extractor(ExtractorConfig(extractor="tiny_dino")).network
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=r"a\.safetensors: belongs to another architecture than PatchTokens: model\.encoder\.layer"):
        apply_adapter(other, adapter, "a.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_what_cannot_be_trained_is_named():
    with pytest.raises(ConfigError, match="is no network"):
        MefNetwork(MefNetworkConfig(extractor="dense_sift"))
    with pytest.raises(ConfigError, match=r"there are .*k_proj"):
        MefNetwork(replace(TINY, lora_layers=("qkv",)))
    with pytest.raises(ConfigError, match="one must be positive"):
        MefNetwork(replace(TINY, lora_rank=0, num_convs=0))
    with pytest.raises(ConfigError, match="multiples of 14"):
        MefNetwork(TINY)(noise(1, 57))


def test_the_whole_network_can_be_trained_instead():
    network = MefNetwork(replace(TINY, train="everything", num_convs=0))
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ConfigError, match="no adapter"):
        network.adapter()


# Pairs of points


def test_points_are_where_the_cameras_see_them_after_augmentation(sample):
    config = AugmentationConfig(height=84, width=84, independent_frames=True, shift_scale_rotate=ShiftScaleRotateConfig(probability=1.0))
    changed = augment(sample, config, np.random.default_rng(3))
    points = draw_points(collate([changed]), PairPointsConfig(num_points=200))
    for view in (0, 1):
        in_camera = se3.transform_points(np.linalg.inv(changed.world_from_camera[view]), points.points_world[0, view].numpy())
        assert_close(project(in_camera, changed.cameras[view]), points.points_px[0, view].double().numpy(), atol=1e-3)
        column, row = points.points_px[0, view].long().numpy().T
        assert (changed.masks[view][row, column] > 0).all()
        extent = np.ptp(points.points_world[0, view].numpy(), axis=0)
        assert extent.max() <= 1.01


def test_both_views_name_one_surface_point_alike():
    sequence = open_dataset("primitives", ".", VIEWS)[0]
    forward = sequence.world_from_camera[:, :3, 2]
    near, far = np.argsort(-forward @ forward[20])[[1, -1]]  # the next camera, about 30 degrees on, and the one on the other side of the object
    shares = []
    for other in (near, far):
        points = draw_points(collate([sequence.load([20, int(other)])]), PairPointsConfig(num_points=1500))
        shares.append(float((torch.cdist(points.points_world[0, 0], points.points_world[0, 1]).amin(1) < 0.02).double().mean()))
    assert shares[0] > 0.6
    assert shares[1] < 0.1


def test_points_that_a_set_follows_serve_where_there_is_no_depth():
    clip = render_clip(ScenesConfig(height=48, width=64, num_frames=3, num_tracks=200, num_textures=4), 5, [0, 2])
    points = draw_points(collate([replace(clip, depth_m=None, masks=None)]), PairPointsConfig(num_points=100, scale="as_is"))
    for view in (0, 1):
        in_camera = se3.transform_points(np.linalg.inv(clip.world_from_camera[view]), points.points_world[0, view].numpy())
        assert_close(project(in_camera, clip.cameras[view]), points.points_px[0, view].double().numpy(), atol=2e-2)


def test_scenes_are_measured_by_what_both_views_see():
    clip = render_clip(ScenesConfig(height=48, width=64, num_frames=3, num_textures=4), 5, [0, 2])
    points = draw_points(collate([clip]), PairPointsConfig(num_points=500))
    low, high = torch.quantile(points.points_world[0].reshape(-1, 3), torch.tensor([0.02, 0.98], dtype=torch.float64), dim=0)
    assert float((high - low).max()) == pytest.approx(1)


@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("kind", ["smooth_ap", "contrastive", "diff_procrustes"])
def test_an_empty_view_costs_nothing_and_gives_no_nan(sample, empty, kind):
    masks = list(sample.masks)
    masks[empty] = np.zeros_like(masks[empty])
    points = draw_points(collate([replace(sample, masks=tuple(masks))]), PairPointsConfig(num_points=50))
    network = MefNetwork(TINY)
    terms = mef_terms(network(noise(2)), network.grid, points, MefLossConfig(kind=kind, both_directions=True))
    terms.loss.backward()
    assert (float(terms.loss), int(terms.num_anchors)) == (0, 0)
    assert all(not parameter.grad.any() for parameter in network.parameters() if parameter.requires_grad)


def test_pairs_without_geometry_are_named(sample):
    with pytest.raises(InputError, match=r"primitive/000000/000020: pairs need depth"):
        draw_points(collate([replace(sample, depth_m=None)]), PairPointsConfig())
    with pytest.raises(InputError, match="must be a pair"):
        draw_points(collate([open_dataset("primitives", ".", VIEWS)[0].load([1])]), PairPointsConfig())


def test_descriptors_are_read_where_the_points_are():
    """Maps that hold the place of their cells: a point's descriptor is then its place."""
    from perception_training.methods.pair_data import PairPoints

    camera = Camera(56, 56, 50.0, 50.0, 28.0, 28.0)
    pixels = torch.tensor([[20.0, 30.0], [35.0, 13.0], [40.0, 41.0]])
    world = torch.cat([(pixels - 28) / 50, torch.ones(3, 1)], 1).double()
    network = MefNetwork(replace(TINY, num_convs=1))
    offset, stride = network.grid.offset_px[0], network.grid.stride_px[0]
    y, x = torch.meshgrid(*(offset + stride * torch.arange(4.0),) * 2, indexing="ij")
    maps = torch.stack([x - 28, y - 28, torch.full_like(x, float(camera.fx))])[None].expand(2, -1, -1, -1)
    points = PairPoints(pixels.expand(1, 2, 3, 2), world.expand(1, 2, 3, 3))
    terms = mef_terms(maps, network.grid, points, MefLossConfig(temperature=1e-3))
    assert int(terms.num_anchors) == 3
    assert float(terms.loss) == pytest.approx(0.0, abs=1e-3)  # each point finds itself first


# Sequences


def test_held_out_objects_are_never_trained_on_and_objects_grow_by_adding():
    whole = open_dataset("primitives", ".", VIEWS)
    held_out = set(ChosenSequences(whole, 3, seed=1).sequence_names)
    one, five, rest = (set(ChosenSequences(whole, number, seed=1, skip=3).sequence_names) for number in (1, 5, 0))
    assert one < five < rest
    assert not rest & held_out
    assert len(rest) == len(whole) - 3
    with pytest.raises(InputError, match="must be at least 18"):
        ChosenSequences(whole, 15, seed=1, skip=3)


def test_frames_of_an_evaluation_are_loaded_once(monkeypatch):
    kept = KeptFrames(open_dataset("primitives", ".", VIEWS))
    first = kept.open_sequence("000001").load([3])
    monkeypatch.setattr(MeshViews, "load", lambda *_: pytest.fail("loaded again"))
    assert kept.open_sequence("000001").load([3]) is first
    assert kept.open_sequence("000001").frame_names[3] == "000003"


# Recipes


def test_every_recipe_has_a_debug_twin_and_both_build_what_they_say():
    assert {name for name in NAMES if not name.endswith("_debug")} == {name.removesuffix("_debug") for name in NAMES if name.endswith("_debug")}
    code = make_recipe("mef_code")
    assert (code.train.steps, code.train.batch_size, code.train.clip_norm, code.train.seed) == (10_000, 1, 1.0, 42)
    assert (code.train.optimiser.learning_rate, code.train.optimiser.weight_decay, code.train.optimiser.name) == (1e-5, 1e-4, "adamw")
    assert (code.loss.positive_below, code.loss.negative_above, code.loss.temperature) == (5e-3, 0.1, 0.01)
    assert (code.pairs.points.num_points, code.pairs.max_rotation_deg, code.pairs.augmentation.height) == (3000, 120.0, 1120)
    assert (code.network.lora_rank, code.network.lora_blocks, code.network.num_convs) == (4, 4, 1)
    assert make_recipe("mef_paper") == replace(code, loss=replace(code.loss, form="brown"))


def test_missing_paths_and_sizes_are_named():
    with pytest.raises(ConfigError, match=r"pairs\.sources\.0\.path"):
        replace(make_recipe("mef_code"), network=TINY).build()
    debug = make_recipe("mef_code_debug")
    with pytest.raises(ConfigError, match="multiples of 14"):
        replace(debug, pairs=replace(debug.pairs, augmentation=replace(debug.pairs.augmentation, height=100, width=100))).build()


def mean_loss(task, num: int = 2) -> float:
    batches, losses = iter(task.data(100, 0, 1)), []
    with torch.no_grad():
        for number in range(num):
            torch.manual_seed(number)
            losses += [float(value) for _, value in task.losses(next(batches)).values()]
    return float(np.mean(losses))


FAST = ("mef_code_debug", "mef_diffproc_debug")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES if name.endswith("_debug")])
def test_debug_recipes_learn_and_export_an_adapter(name, tmp_path, capsys):
    recipe = make_recipe(name)
    steps = min(recipe.train.steps, 12)
    recipe = replace(recipe, train=replace(recipe.train, out=str(tmp_path), steps=steps, evaluate_at=()), pairs=replace(recipe.pairs, num_held_out=0))
    torch.manual_seed(recipe.train.seed)
    before = mean_loss(recipe.build())
    task = train(recipe, name).task
    assert mean_loss(task) < before
    adapter = read_adapter(tmp_path / "export" / ADAPTER_FILE)
    assert adapter.num_convs == recipe.network.num_convs
    assert adapter.extractor == "tiny_dinov2"


@pytest.mark.parametrize("data_set", ["objaverse", "mvimgnet", "seven_scenes", "scenes"])
def test_every_kind_of_data_gives_pairs_with_positives(data_set, tmp_path):
    radial = replace(miniature_scene().cameras[0], fy=miniature_scene().cameras[0].fx, distortion_model="plumb_bob", distortion=(0.05, 0, 0, 0, 0))
    write = {
        "objaverse": lambda: write_objaverse(tmp_path, seen_by(miniature_scene(), PUBLISHED_CAMERA)),
        "mvimgnet": lambda: write_mvimgnet(tmp_path, seen_by(miniature_scene(), radial)),
        "seven_scenes": lambda: write_seven_scenes(tmp_path),
        "scenes": lambda: (tmp_path / "scenes.yaml").write_text("num_clips: 2\nscenes: {height: 64, width: 64, num_frames: 3, num_textures: 4}\n"),
    }
    write[data_set]()
    path = tmp_path / {"scenes": "scenes.yaml", "objaverse": "objaverse_renderings"}.get(data_set, "")
    debug = make_recipe("mef_code_debug")
    pairs = replace(debug.pairs, sources=(PairSource(data_set=data_set, path=str(path)),), num_held_out=0, one_pair=False, skip_bad=False)
    task = replace(debug, pairs=replace(pairs, max_rotation_deg=120.0, points=PairPointsConfig(num_points=1000, min_points=4))).build()
    for _, batch in zip(range(2), task.data(0, 0, 1), strict=False):
        (_, value), *_ = task.losses(batch).values()
        assert value.requires_grad
        assert float(value.detach()) > 0
    assert task.evaluate(0) == {"share_without_positives": 0}


def test_few_shot_curves_are_written(tmp_path, capsys):
    debug = make_recipe("mef_code_debug")
    recipe = replace(debug, pairs=replace(debug.pairs, num_held_out=1), held_out=replace(debug.held_out, num_views=2))
    points = few_shot_curves(recipe, tmp_path, iterations=(0, 1, 2), num_objects=(1, 2))
    rows = list(csv.DictReader((tmp_path / CSV_FILE).open()))
    assert [(int(row["num_objects"]), int(row["iterations"])) for row in rows] == [(count, step) for count in (1, 2) for step in (0, 1, 2)]
    assert float(rows[0]["ape_percent"]) == pytest.approx(points[0].figures["ape_percent"], rel=1e-4)
    assert rows[0]["ape_percent"] == rows[3]["ape_percent"]  # before training the objects make no difference
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in (BY_ITERATIONS_FILE, BY_OBJECTS_FILE))
    with pytest.raises(ConfigError, match="num_held_out"):
        few_shot_curves(replace(recipe, pairs=replace(recipe.pairs, num_held_out=0)), tmp_path)
