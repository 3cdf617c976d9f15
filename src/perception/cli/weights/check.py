"""Compare the names, shapes and types of a file's tensors with those of a network. The weights themselves are not read.

Exit code 0: they are the network's; 1: they differ; 2: the file cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from perception.models.network_files import Comparison, compare, most_like, public_tensors
from perception.models.networks import network_spec


@dataclass(frozen=True)
class Arguments:
    """Which file, and whose it should be."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of a network, such as pi3, dust3r_512_dpt or stdit."""
    file: Annotated[Path, tyro.conf.Positional]
    """A .safetensors or torch file, an index.json with its shards beside it, or a folder with one."""
    config: str = ""
    """Configuration of the network; without it the published one."""
    differences: int = 10
    """So many names of each kind of difference are printed."""


def run(arguments: Arguments) -> int:
    """Prints what was found."""
    spec = network_spec(arguments.name)
    tensors = public_tensors(arguments.file.expanduser(), shapes_only=True)
    comparison = compare(arguments.name, tensors, arguments.config or None)
    print(f"{arguments.file}: {describe(comparison)}")
    if comparison.fits:
        print(f"fits {arguments.name}: every name and shape · licence of the public weights: {spec.licence} · input: {spec.normalisation}")
        return 0
    for kind, names in comparison.kinds.items():
        print(f"{len(names)} {kind}")
        for name in names[: max(arguments.differences, 0)]:
            print(f"  {name}")
        if len(names) > arguments.differences:
            print("  …")
    likeness = most_like(tensors)
    print(f"does not fit {arguments.name}; {likeness or 'no network of the registry has half of its names and shapes'}")
    return 1


def describe(comparison: Comparison) -> str:
    """What a file holds, in one line."""
    types = ", ".join(f"{number} {name}" for name, number in sorted(comparison.types.items()))
    cast = "; becomes float32 on loading" if comparison.types.keys() & {"float16", "bfloat16"} else ""
    return f"{comparison.num_tensors} tensors, {comparison.num_values / 1e6:.1f} M numbers ({types}{cast})"
