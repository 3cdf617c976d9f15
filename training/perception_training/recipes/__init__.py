"""All recipes by name. Each has a twin of the name with `_debug` that runs on a CPU in seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from perception.core.errors import unknown_name

if TYPE_CHECKING:
    from perception_training.loop.task import Recipe

RECIPES: dict[str, str] = {}
"""Name → "module:function" of a function without arguments that returns a `loop.task.Recipe`; resolved when it is asked for."""


def make_recipe(name: str) -> Recipe:
    """The configuration of this name. Raises ConfigError that lists the known ones."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    module, function = RECIPES[name].split(":")
    recipe: Recipe = getattr(import_module(module), function)()
    return recipe
