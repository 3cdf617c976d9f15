"""Weights as data: what a checkpoint is, where it comes from, and how it is fetched, verified and read. Never pickle."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from perception.core.errors import WeightsError
from perception.core.resources import share_dir

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_NUM_NAMED_KEYS = 4


@dataclass(frozen=True)
class WeightSpec:
    """One downloadable checkpoint: source URL, sha256 of the file, SPDX licence, input mean and std in [0, 1] RGB, patch in pixels."""

    name: str
    source: str
    sha256: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch: int


def cache_dir() -> Path:
    """The folder of downloaded and exported files: $PERCEPTION_CACHE, else $XDG_CACHE_HOME/perception, else ~/.cache/perception."""
    own = os.environ.get("PERCEPTION_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception"


def weight_specs(path: Path | None = None) -> dict[str, WeightSpec]:
    """All checkpoints of config/weights.yaml (or of `path`) by name."""
    path = path or share_dir() / "config" / "weights.yaml"
    try:
        entries = yaml.safe_load(path.read_text()) or {}
        return {
            name: WeightSpec(name, e["source"], e["sha256"], e["licence"], tuple(e["mean"]), tuple(e["std"]), int(e["patch"]))  # type: ignore[arg-type]
            for name, e in entries.items()
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a list of weights ({error!r}); each needs source, sha256, licence, mean, std, patch") from error


def resolve_weights(weights: str) -> Path:
    """A local file as it is, or the cached and verified file of a name from config/weights.yaml, downloaded if it has to be."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    specs = weight_specs()
    if weights in specs:
        return fetch(specs[weights])
    raise WeightsError(f"weights = {weights!r}: no such file, and no such name in config/weights.yaml; known names: {', '.join(sorted(specs))}")


def fetch(spec: WeightSpec, folder: Path | None = None) -> Path:
    """Download `spec` unless it lies verified in `folder` (default: the cache). Resumes a broken download; renames only what is verified."""
    folder = folder or cache_dir() / "weights"
    target = folder / f"{spec.sha256[:12]}-{Path(spec.source).name}"
    if target.is_file() and file_sha256(target) == spec.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    _download(spec, partial)
    found = file_sha256(partial)
    if found != spec.sha256:
        partial.unlink()
        raise WeightsError(f"weights {spec.name}: {spec.source} has sha256 {found}, expected {spec.sha256}; the file was removed")
    os.replace(partial, target)
    return target


def _download(spec: WeightSpec, partial: Path) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(spec.source, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            resumed = start > 0 and getattr(response, "status", None) == 206
            with partial.open("ab" if resumed else "wb") as file:
                shutil.copyfileobj(response, file, _CHUNK_BYTES)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to fetch: the checksum decides
            return
        raise WeightsError(f"weights {spec.name}: {spec.source} answered {error.code} {error.reason}") from error
    except OSError as error:
        raise WeightsError(
            f"weights {spec.name}: {spec.source} cannot be reached ({error}); without a network give the path of a local copy as `weights`"
        ) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint. Raises WeightsError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def load_into(module: nn.Module, state: Mapping[str, torch.Tensor], place: str, optional: tuple[str, ...] = ()) -> None:
    """Load `state` key for key. Keys of `module` in `optional` may be absent; any other difference is an error that names the first ones."""
    wanted = module.state_dict()
    missing = sorted(key for key in wanted if key not in state and key not in optional)
    unexpected = sorted(key for key in state if key not in wanted)
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted)
        if key in state and state[key].shape != wanted[key].shape
    ]
    if missing or unexpected or shapes:
        kinds = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
        parts = [
            f"{len(found)} {kind}: {', '.join(found[:_NUM_NAMED_KEYS])}{', …' * (len(found) > _NUM_NAMED_KEYS)}"
            for kind, found in kinds.items()
            if found
        ]
        raise WeightsError(f"weights {place}: belong to another architecture than {type(module).__name__} ({'; '.join(parts)})")
    module.load_state_dict(dict(state), strict=False)
