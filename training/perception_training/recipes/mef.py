"""Recipes of MEF (You et al., ICLR 2025): as published, the losses it is compared with, few-shot, and the number of convolutions.

Where paper and released code (qq456cvb/3DCorrEnhance 06a94d9) disagree there are two: `mef_paper` has SmoothAP as Brown et al. wrote it, which the
paper names, `mef_code` the form that was run (default of the others, because its results are the published ones). All else is of the code, which
agrees with the paper as far as that says anything: 10,000 iterations of one pair, AdamW 1e-5 with weight decay 1e-4 in one group, clipping at 1,
float32, seed 42, views of 1120 px.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from perception.core.config import Checked
from perception_training.data.augmentation.presets import mef_augmentation
from perception_training.loop.config import OptimiserConfig, TrainConfig
from perception_training.methods.mef import MefLossConfig, MefNetworkConfig
from perception_training.methods.pair_data import PairPointsConfig
from perception_training.recipes.mef_task import HeldOutConfig, MefTask, PairsConfig, PairSource

FEW_SHOT_STEPS = (0, 1, 5, 10, 20, 50, 100, 1000)
"""At which the paper looks at few-shot training (figure 12, which ends at 10,000)."""
_DEBUG_SIDE_PX = 112


@dataclass(frozen=True, kw_only=True)
class MefRecipe(Checked):
    """MEF finetuning."""

    train: TrainConfig = field(default_factory=TrainConfig)
    network: MefNetworkConfig = field(default_factory=MefNetworkConfig)
    loss: MefLossConfig = field(default_factory=MefLossConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)

    def build(self) -> MefTask:
        """Opens the data sets and the network."""
        return MefTask(self.network, self.loss, self.pairs, self.held_out, self.train)


def mef_code() -> MefRecipe:
    """As the released code trains DINOv2-B on Objaverse renders."""
    optimiser = OptimiserConfig(name="adamw", learning_rate=1e-5, weight_decay=1e-4)
    train = TrainConfig(steps=10_000, batch_size=1, optimiser=optimiser, clip_norm=1.0, precision="float32", seed=42, checkpoint_every=1000)
    return MefRecipe(train=train, pairs=PairsConfig(augmentation=replace(mef_augmentation(), undistort=True)))


def mef_paper() -> MefRecipe:
    """With SmoothAP as Brown et al. wrote it."""
    return _with_loss(mef_code(), form="brown")


def mef_contrastive() -> MefRecipe:
    """With the margin loss of the paper's table 3; margins are ours."""
    return _with_loss(mef_code(), kind="contrastive")


def mef_diffproc() -> MefRecipe:
    """With the differentiable Procrustes loss of the paper's table 3, as far as its form is known."""
    return _with_loss(mef_code(), kind="diff_procrustes", temperature=0.1)


def mef_one_object() -> MefRecipe:
    """On one object, looked at after 0 to 1,000 iterations (the paper's figures 10 to 12)."""
    recipe = mef_code()
    train = replace(recipe.train, evaluate_at=FEW_SHOT_STEPS)
    return replace(recipe, train=train, pairs=replace(recipe.pairs, num_objects=1, num_held_out=8))


def mef_one_pair() -> MefRecipe:
    """On one pair of views of one object."""
    recipe = mef_one_object()
    return replace(recipe, pairs=replace(recipe.pairs, one_pair=True), train=replace(recipe.train, steps=1000))


def mef_one_iteration() -> MefRecipe:
    """One pair, one iteration."""
    recipe = mef_one_pair()
    return replace(recipe, train=replace(recipe.train, steps=1, evaluate_at=(0,)))


def mef_no_conv() -> MefRecipe:
    """LoRA alone."""
    return _with_convs(mef_code(), 0)


def mef_two_convs() -> MefRecipe:
    """Two convolutions of the final tokens."""
    return _with_convs(mef_code(), 2)


def mef_three_convs() -> MefRecipe:
    """Three convolutions of the final tokens."""
    return _with_convs(mef_code(), 3)


def _with_loss(recipe: MefRecipe, **changes: object) -> MefRecipe:
    return replace(recipe, loss=replace(recipe.loss, **changes))  # type: ignore[arg-type]


def _with_convs(recipe: MefRecipe, num_convs: int) -> MefRecipe:
    return replace(recipe, network=replace(recipe.network, num_convs=num_convs))


def debug_twin(recipe: MefRecipe) -> MefRecipe:
    """The same in seconds on a CPU: a tiny random ViT, views of primitives that need no files, 20 steps (or as many as there are, if fewer)."""
    steps = min(20, recipe.train.steps)
    optimiser = replace(recipe.train.optimiser, learning_rate=1e-3)
    train = replace(
        recipe.train,
        steps=steps,
        optimiser=optimiser,
        num_workers=0,
        device="cpu",
        log_every=5,
        evaluate_at=tuple(step for step in recipe.train.evaluate_at if step <= steps),
    )
    still = replace(recipe.pairs.augmentation.shift_scale_rotate, probability=0.0)
    augmentation = replace(recipe.pairs.augmentation, height=_DEBUG_SIDE_PX, width=_DEBUG_SIDE_PX, shift_scale_rotate=still)
    pairs = replace(
        recipe.pairs,
        sources=(PairSource(data_set="primitives", path="."),),
        num_objects=1,
        num_held_out=2,
        max_rotation_deg=40.0,
        one_pair=True,
        points=PairPointsConfig(num_points=300),
        augmentation=augmentation,
    )
    loss = replace(recipe.loss, positive_below=0.03, temperature=0.1)
    held_out = replace(recipe.held_out, num_views=3)
    return MefRecipe(train=train, network=replace(recipe.network, extractor="tiny_dinov2"), loss=loss, pairs=pairs, held_out=held_out)


def mef_code_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_code())


def mef_paper_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_paper())


def mef_contrastive_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_contrastive())


def mef_diffproc_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_diffproc())


def mef_one_object_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_one_object())


def mef_one_pair_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_one_pair())


def mef_one_iteration_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_one_iteration())


def mef_no_conv_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_no_conv())


def mef_two_convs_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_two_convs())


def mef_three_convs_debug() -> MefRecipe:
    """Debug twin."""
    return debug_twin(mef_three_convs())
