"""All recipes by name. Each has a twin of the name with `_debug` that runs on a CPU in seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from perception.core.errors import unknown_name

if TYPE_CHECKING:
    from perception_training.loop.task import Recipe

RECIPES: dict[str, str] = {
    "mef_code": "perception_training.recipes.mef:mef_code",
    "mef_code_debug": "perception_training.recipes.mef:mef_code_debug",
    "mef_contrastive": "perception_training.recipes.mef:mef_contrastive",
    "mef_contrastive_debug": "perception_training.recipes.mef:mef_contrastive_debug",
    "mef_diffproc": "perception_training.recipes.mef:mef_diffproc",
    "mef_diffproc_debug": "perception_training.recipes.mef:mef_diffproc_debug",
    "mef_no_conv": "perception_training.recipes.mef:mef_no_conv",
    "mef_no_conv_debug": "perception_training.recipes.mef:mef_no_conv_debug",
    "mef_one_iteration": "perception_training.recipes.mef:mef_one_iteration",
    "mef_one_iteration_debug": "perception_training.recipes.mef:mef_one_iteration_debug",
    "mef_one_object": "perception_training.recipes.mef:mef_one_object",
    "mef_one_object_debug": "perception_training.recipes.mef:mef_one_object_debug",
    "mef_one_pair": "perception_training.recipes.mef:mef_one_pair",
    "mef_one_pair_debug": "perception_training.recipes.mef:mef_one_pair_debug",
    "mef_paper": "perception_training.recipes.mef:mef_paper",
    "mef_paper_debug": "perception_training.recipes.mef:mef_paper_debug",
    "mef_three_convs": "perception_training.recipes.mef:mef_three_convs",
    "mef_three_convs_debug": "perception_training.recipes.mef:mef_three_convs_debug",
    "mef_two_convs": "perception_training.recipes.mef:mef_two_convs",
    "mef_two_convs_debug": "perception_training.recipes.mef:mef_two_convs_debug",
    "nano_mef": "perception_training.recipes.nano:nano_mef",
    "nano_mef_debug": "perception_training.recipes.nano:nano_mef_debug",
    "nano_pretrain": "perception_training.recipes.nano:nano_pretrain",
    "nano_pretrain_debug": "perception_training.recipes.nano:nano_pretrain_debug",
}
"""Name → "module:function" of a function without arguments that returns a `loop.task.Recipe`; resolved when it is asked for."""


def make_recipe(name: str) -> Recipe:
    """The configuration of this name. Raises ConfigError that lists the known ones."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    module, function = RECIPES[name].split(":")
    recipe: Recipe = getattr(import_module(module), function)()
    return recipe
