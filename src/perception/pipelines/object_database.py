"""What is known of one object: descriptors on its surface, grouped by the view that saw them. One open, memory-mapped file.

Format (version 1): a safetensors file. Tensors: `descriptors` (num, dim) float16, `points` (num, 3) float32 in the object frame,
`normals` (num, 3) float16 in the object frame (zero where unknown), `view_starts` (views + 1,) int64: descriptors of view v are rows
view_starts[v]:view_starts[v + 1], `camera_from_object` (views, 4, 4) float64, `vocabulary` (words, dim) float16, `view_words`
(views, words) float32, `symmetries` (num, 4, 4) float64, `bounds` (2, 3) float32. The header's metadata holds format, version, name,
extractor, sha256 over all tensors, and the source and settings it was made from, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from perception.core.errors import InputError

FORMAT = "perception object database"
VERSION = 1
_TENSORS = ("descriptors", "points", "normals", "view_starts", "camera_from_object", "vocabulary", "view_words", "symmetries", "bounds")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def checked_object_name(name: str) -> str:
    """`name` if it can stand in a ROS topic (letter first; letters, digits and underscores), else an InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"object name {name!r}: must start with a letter and hold letters, digits and underscores only (it becomes part of topic names)"
        )
    return name


@dataclass(frozen=True, eq=False)
class ObjectDatabase:
    """See the module's text for shapes. `provenance` says from what and how it was made."""

    name: str
    extractor: str
    descriptors: torch.Tensor
    points: torch.Tensor
    normals: torch.Tensor
    view_starts: torch.Tensor
    camera_from_object: torch.Tensor
    vocabulary: torch.Tensor
    view_words: torch.Tensor
    symmetries: torch.Tensor
    bounds: torch.Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_object_name(self.name)
        num = self.descriptors.shape[0]
        if num == 0 or self.points.shape != (num, 3) or self.view_starts[-1] != num or self.num_views != len(self.camera_from_object):
            raise InputError(f"object database {self.name!r}: descriptors, points and views do not belong together, or there are none")

    @property
    def num_views(self) -> int:
        return len(self.view_starts) - 1

    @property
    def dim(self) -> int:
        return self.descriptors.shape[1]

    def view_rows(self, view: int) -> slice:
        """Rows of the descriptors that `view` saw."""
        return slice(int(self.view_starts[view]), int(self.view_starts[view + 1]))

    def rows_of(self, views: torch.Tensor) -> torch.Tensor:
        """Row numbers of several views, in ascending order."""
        return torch.cat([torch.arange(int(self.view_starts[view]), int(self.view_starts[view + 1])) for view in views.sort().values.tolist()])

    def save(self, path: str | Path) -> Path:
        """Write to `path` (parent folders are made); the old file stays until the new one is whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "name": self.name,
            "extractor": self.extractor,
            "sha256": _digest(tensors),
            "provenance": json.dumps(self.provenance),
        }
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file(tensors, part, metadata)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> ObjectDatabase:
        """Map the file into memory. `verify` reads it once and compares the hash, so that a damaged file is refused."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"object database {path}: no such file; make one with `perception onboard SOURCE --name NAME --out {path}`")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(f"{path}: a safetensors file, but no object database (format {metadata.get('format')!r})")
                if metadata.get("version") != str(VERSION):
                    raise InputError(
                        f"{path}: made by format version {metadata.get('version')}; this release reads {VERSION}: onboard the object again"
                    )
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, OSError) as error:
            raise InputError(f"object database {path}: cannot be read ({error}); it is damaged or not a safetensors file") from error
        if verify and _digest(tensors) != metadata["sha256"]:
            raise InputError(f"object database {path}: content does not match its recorded hash; the file is damaged: onboard the object again")
        return cls(name=metadata["name"], extractor=metadata["extractor"], provenance=json.loads(metadata["provenance"]), **tensors)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
