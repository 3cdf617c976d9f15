"""Train variants of the toy one after the other: `python -m tests.support.toy_distributed FOLDER NAME ...`, in one process or as one of several.

Rank 0 writes the weights after the last step and the figures of that step; every rank writes how the run ended.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tests.support.toy_task import ToyConfig, ToyRecipe

from perception.core.errors import PerceptionError
from perception_training.loop.config import OptimiserConfig, TrainConfig
from perception_training.loop.distribution import joined
from perception_training.loop.training import train

ADAMW = TrainConfig(
    steps=6, num_workers=0, optimiser=OptimiserConfig(learning_rate=1e-2), ema_decay=0.8, clip_norm=0.5, precision="float32", device="cpu",
    log_every=1, checkpoint_every=3,
)  # fmt: skip
ONE_STEP_OF_SGD = replace(
    ADAMW, steps=1, optimiser=OptimiserConfig(name="sgd", learning_rate=1.0, beta1=0.0, weight_decay=0.0), clip_norm=0.0, ema_decay=0.0
)
EXACT = ToyConfig(double=True)


def variants(world_size: int) -> dict[str, ToyRecipe]:
    """Runs that see the same samples in every step for any number of processes up to 2."""
    share = 8 // world_size
    fsdp = "fsdp" if world_size > 1 else "auto"
    return {
        "gradient": ToyRecipe(train=replace(ONE_STEP_OF_SGD, batch_size=share), toy=EXACT),
        "adamw": ToyRecipe(train=replace(ADAMW, batch_size=share), toy=EXACT),
        "accumulated": ToyRecipe(train=replace(ADAMW, batch_size=share // 2, accumulation=2), toy=EXACT),
        "fsdp": ToyRecipe(train=replace(ADAMW, batch_size=share // 2, accumulation=2, distribution=fsdp), toy=EXACT),
        "fsdp_resumed": ToyRecipe(train=replace(ADAMW, steps=9, batch_size=share, distribution=fsdp, resume=True), toy=EXACT),
        "bad": ToyRecipe(train=replace(ADAMW, batch_size=share), toy=replace(EXACT, bad_sample=9)),
    }


def main(folder: Path, names: list[str]) -> None:
    """Train these variants. `fsdp_resumed` goes on in the folder of `fsdp`."""
    with joined(ADAMW) as place:
        for name in names:
            recipe = variants(place.world_size)[name]
            out = folder / name.removesuffix("_resumed")
            try:
                result = train(replace(recipe, train=replace(recipe.train, out=str(out))), name)
                ending = {"gradient_norm": result.last.gradient_norm, "loss": result.last.loss}
            except PerceptionError as error:
                ending = {"error": str(error)}
            (folder / f"{name}_{place.rank}.json").write_text(json.dumps(ending))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
