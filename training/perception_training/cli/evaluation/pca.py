"""Pictures of dense features as colours: views of some sequences of a data set, a row for each extractor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from perception.cli.progress import Steps
from perception.core.config import Range
from perception.io.images import write_image
from perception_training.benchmarks.pca_pictures import pca_picture
from perception_training.benchmarks.running import evenly_chosen
from perception_training.cli.data.reader_arguments import read_reader_arguments
from perception_training.cli.evaluation.shared import open_features


@dataclass(frozen=True)
class Arguments:
    """What is shown, and where the pictures go."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder (or file) of the copy."""
    out: Path
    """Folder of the pictures."""
    extractors: tuple[str, ...] = ("dense_sift",)
    """Extractors with their settings, such as dinov2_small,image_side_px=896."""
    max_sequences: Annotated[int, Range(1)] = 4
    """So many sequences, evenly spaced."""
    num_columns: Annotated[int, Range(1, 100)] = 6
    """So many views of each, evenly spaced."""
    height_px: Annotated[int, Range(16, 4096, "px")] = 240
    """Height of a view."""


def main(arguments: Sequence[str], prog: str) -> int:
    """`perception-eval pca NAME PATH --out DIR ...`."""
    read = read_reader_arguments(Arguments, arguments, prog, __doc__)
    command, steps = read.command, Steps()
    dataset, features = read.kind(command.path, read.options), open_features(command.extractors)
    names = evenly_chosen(dataset.sequence_names, command.max_sequences)
    with steps.step(f"draw {len(names)} sequences") as step:
        for done, name in enumerate(names, 1):
            path = command.out / f"{name.replace('/', '_')}.png"
            write_image(path, pca_picture(dataset.open_sequence(name), features, command.num_columns, command.height_px))
            step.progress(done, len(names))
        step.result = str(command.out)
    return 0
