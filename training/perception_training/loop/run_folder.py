"""The folder of a run: what was trained, by which code, where, and how to do it again.

config.yaml · starts.jsonl (a line for each start: command, commit, machine, libraries) · changes_STEP.diff (what the checkout had that its commit has
not) · log.jsonl · tensorboard/ · checkpoints/ · export/ · not_finite/ (batches that stopped the run)
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from perception.core.errors import InputError
from perception.evaluation.predictions import write_atomically
from perception.evaluation.provenance import current_commit, library_versions, machine_facts
from perception_training.loop.distribution import Place

_LIBRARIES = ("peft", "safetensors", "scikit-image", "tensorboard", "webdataset")
_GIT_TIMEOUT_S = 20


class RunFolder:
    """Where the files of a run lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.starts = root / "starts.jsonl"
        self.log = root / "log.jsonl"
        self.tensorboard = root / "tensorboard"
        self.checkpoints = root / "checkpoints"
        self.export = root / "export"
        self.not_finite = root / "not_finite"

    def describe_start(self, recipe: str, config: Mapping[str, Any], step: int, place: Place) -> None:
        """Write configuration, commit, changes and environment of a start at `step`. Raises InputError when the folder cannot be written."""
        environment = {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "step": step,
            "recipe": recipe,
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "folder": str(Path.cwd()),
            "commit": current_commit(),
            "processes": place.world_size,
            "device": str(place.device),
            "gpus": gpu_names(),
            "machine": machine_facts(),
            "versions": {**library_versions(), **_installed(_LIBRARIES)},
        }
        try:
            write_atomically(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
            changes = uncommitted_changes()
            if changes:
                write_atomically(self.root / f"changes_{step:08d}.diff", changes)
            with self.starts.open("a") as file:
                file.write(json.dumps(environment) + "\n")
        except OSError as error:
            raise InputError(f"run folder {self.root}: cannot be written ({error.strerror})") from error


def gpu_names() -> list[str]:
    """The GPUs of this machine, with their memory."""
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices]


def uncommitted_changes() -> str:
    """What the checkout that this code runs from has changed since its commit, as a patch; the names of new files above. Empty without a checkout."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        new = subprocess.run(
            [*git, "ls-files", "--others", "--exclude-standard", "--full-name", ":/"], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S
        )
        patch = subprocess.run([*git, "diff", "HEAD"], capture_output=True, text=True, errors="replace", timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if patch.returncode or new.returncode:
        return ""
    return "".join(f"# new file: {name}\n" for name in new.stdout.splitlines()) + patch.stdout


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
