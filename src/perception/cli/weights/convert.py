"""Write the tensors of a file as safetensors, under the same names, when they are those of a network.

Nothing in the file is executed: a torch file that holds more than tensors (settings, counters) is read without them. The file must fit the network
(see `perception weights check`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from perception.cli.weights.check import describe
from perception.models.network_files import Precision, convert


@dataclass(frozen=True)
class Arguments:
    """From where to where."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of a network, such as pi3, dust3r_512_dpt or stdit."""
    file: Annotated[Path, tyro.conf.Positional]
    """A .safetensors or torch file, an index.json with its shards beside it, or a folder with one."""
    out: Annotated[Path, tyro.conf.Positional]
    """File to write; must end with .safetensors and not exist."""
    config: str = ""
    """Configuration of the network; without it the published one."""
    precision: Precision = "keep"
    """Type of the numbers that are written."""


def run(arguments: Arguments) -> int:
    """Prints what was written."""
    source, target = arguments.file.expanduser(), arguments.out.expanduser()
    comparison = convert(arguments.name, source, target, arguments.config or None, arguments.precision)
    print(f"{target}: {describe(comparison)}, {target.stat().st_size / 1e6:.1f} MB, for {arguments.name}")
    return 0
