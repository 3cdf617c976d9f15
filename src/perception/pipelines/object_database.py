"""What is known of one object: descriptors on its surface, grouped by the view that saw them. One open, memory-mapped file.

Format (version 1): a safetensors file. Tensors: `descriptors` (num, dim) float16, `points` (num, 3) float32 in the object frame,
`normals` (num, 3) float16 in the object frame (zero where unknown), `view_starts` (views + 1,) int64: descriptors of view v are rows
view_starts[v]:view_starts[v + 1], `camera_from_object` (views, 4, 4) float64, `vocabulary` (words, dim) float16, `view_words`
(views, words) float32, `symmetries` (num, 4, 4) float64, `bounds` (2, 3) float32. The header's metadata holds format, version, name,
extractor, sha256 over all tensors, and the source and settings it was made from, as JSON.

Version 2 is for objects with an adapter of their own (`adaptation`): the header also holds `adapter`, the name of the file beside this one, and
`adapter_sha256`. Who matches frames with such a database needs `adapted` maps.

Version 4 is for objects with templates (`view_templates`), with or without adapter: further tensors, the fields of `Templates` with `template_`
before their names. Version 3 had templates of another kind and is not read. Version 5 also holds keypoints (`object_keypoints`): the fields of
`ObjectKeypoints` with `keypoint_` before their names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from perception.core.errors import InputError
from perception.core.types import FeatureMap
from perception.models.adapter import Adapter, MapAdapter, read_adapter, write_adapter
from perception.models.weights import file_sha256
from perception.pipelines.object_keypoints import ObjectKeypoints
from perception.pipelines.view_templates import Templates

FORMAT = "perception object database"
VERSION, VERSION_WITH_ADAPTER, VERSION_WITH_TEMPLATES, VERSION_WITH_KEYPOINTS = 1, 2, 4, 5
_READ = (VERSION, VERSION_WITH_ADAPTER, VERSION_WITH_TEMPLATES, VERSION_WITH_KEYPOINTS)
_TEMPLATE_PREFIX, _KEYPOINT_PREFIX = "template_", "keypoint_"
_ADAPTER_SUFFIX = ".adapter.safetensors"
_TENSORS = ("descriptors", "points", "normals", "view_starts", "camera_from_object", "vocabulary", "view_words", "symmetries", "bounds")
_Part = TypeVar("_Part", Templates, ObjectKeypoints)
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
    """See the module's text for shapes. `provenance` says from what and how it was made; `adapter` is what its descriptors were made with beside the
    extractor; without `templates` the object is only found about as it stands in its views; `keypoints` come with templates only."""

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
    adapter: Adapter | None = None
    templates: Templates | None = None
    keypoints: ObjectKeypoints | None = None

    def __post_init__(self) -> None:
        checked_object_name(self.name)
        num = self.descriptors.shape[0]
        if num == 0 or self.points.shape != (num, 3) or self.view_starts[-1] != num or self.num_views != len(self.camera_from_object):
            raise InputError(f"object database {self.name!r}: descriptors, points and views do not belong together, or there are none")
        if self.adapter is not None and self.adapter.extractor != self.extractor:
            raise InputError(
                f"object database {self.name!r}: made with the extractor {self.extractor!r}, its adapter for {self.adapter.extractor!r}: "
                "must be the same"
            )

    @property
    def num_views(self) -> int:
        return len(self.view_starts) - 1

    @property
    def dim(self) -> int:
        return self.descriptors.shape[1]

    @cached_property
    def _map_adapter(self) -> MapAdapter | None:
        return None if self.adapter is None else MapAdapter(self.adapter, self.dim, f"adapter of object {self.name!r}")

    def adapted(self, features: FeatureMap) -> FeatureMap:
        """The map to match with this object: that of the extractor itself, with the object's adapter applied if it has one."""
        adapter = self._map_adapter
        return features if adapter is None else adapter.apply(features, f"{features.extractor}, adapted to {self.name}")

    def view_rows(self, view: int) -> slice:
        """Rows of the descriptors that `view` saw."""
        return slice(int(self.view_starts[view]), int(self.view_starts[view + 1]))

    def rows_of(self, views: torch.Tensor) -> torch.Tensor:
        """Row numbers of several views, in ascending order."""
        return torch.cat([torch.arange(int(self.view_starts[view]), int(self.view_starts[view + 1])) for view in views.sort().values.tolist()])

    def save(self, path: str | Path) -> Path:
        """Write to `path` (parent folders are made), and the adapter beside it; the old file stays until the new one is whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        adapter = {} if self.adapter is None else _adapter_record(write_adapter(adapter_path(path), self.adapter))
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        version = VERSION_WITH_ADAPTER if adapter else VERSION
        if self.templates is not None:
            tensors |= {_TEMPLATE_PREFIX + item.name: getattr(self.templates, item.name).contiguous() for item in fields(Templates)}
            version = VERSION_WITH_TEMPLATES
            if self.keypoints is not None:
                tensors |= {_KEYPOINT_PREFIX + item.name: getattr(self.keypoints, item.name).contiguous() for item in fields(ObjectKeypoints)}
                version = VERSION_WITH_KEYPOINTS
        metadata = {
            "format": FORMAT,
            "version": str(version),
            "name": self.name,
            "extractor": self.extractor,
            "sha256": _digest(tensors),
            "provenance": json.dumps(self.provenance),
            **adapter,
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
                if metadata.get("version") not in {str(version) for version in _READ}:
                    raise InputError(
                        f"{path}: made by format version {metadata.get('version')}; this release reads {', '.join(map(str, _READ))}: "
                        "onboard the object again"
                    )
                tensors = {name: file.get_tensor(name) for name in (*_TENSORS, *_names_of_parts(int(metadata["version"])))}
        except (SafetensorError, OSError) as error:
            raise InputError(f"object database {path}: cannot be read ({error}); it is damaged or not a safetensors file") from error
        if verify and _digest(tensors) != metadata["sha256"]:
            raise InputError(f"object database {path}: content does not match its recorded hash; the file is damaged: onboard the object again")
        adapter = _read_recorded_adapter(path, metadata)
        templates, keypoints = _part(Templates, _TEMPLATE_PREFIX, tensors), _part(ObjectKeypoints, _KEYPOINT_PREFIX, tensors)
        return cls(
            name=metadata["name"],
            extractor=metadata["extractor"],
            provenance=json.loads(metadata["provenance"]),
            adapter=adapter,
            templates=templates,
            keypoints=keypoints,
            **tensors,
        )


def _names_of_parts(version: int) -> list[str]:
    """Tensors of templates and keypoints that a file of this version holds."""
    templates = [_TEMPLATE_PREFIX + item.name for item in fields(Templates)] if version >= VERSION_WITH_TEMPLATES else []
    return templates + ([_KEYPOINT_PREFIX + item.name for item in fields(ObjectKeypoints)] if version >= VERSION_WITH_KEYPOINTS else [])


def _part(kind: type[_Part], prefix: str, tensors: dict[str, torch.Tensor]) -> _Part | None:
    """What a file holds of `kind`, taken out of `tensors`; None if it holds none."""
    found = {item.name: tensors.pop(prefix + item.name) for item in fields(kind) if prefix + item.name in tensors}
    return kind(**found) if found else None


def adapter_path(database: Path) -> Path:
    """Where the adapter of a database lies: mug.safetensors → mug.adapter.safetensors."""
    return database.with_name(database.name.removesuffix(".safetensors") + _ADAPTER_SUFFIX)


def _adapter_record(path: Path) -> dict[str, str]:
    return {"adapter": path.name, "adapter_sha256": file_sha256(path)}


def _read_recorded_adapter(database: Path, metadata: Mapping[str, str]) -> Adapter | None:
    """The adapter that a database names, refused unless it is the very file that the database was made with."""
    if "adapter" not in metadata:
        return None
    path = database.parent / Path(metadata["adapter"]).name
    if not path.is_file():
        raise InputError(
            f"object database {database}: was made with the adapter {path.name}, which is not beside it; copy both files, or onboard the object again"
        )
    if file_sha256(path) != metadata["adapter_sha256"]:
        raise InputError(
            f"object database {database}: adapter {path} is not the one it was made with (its hash differs); copy the files that belong together, "
            "or onboard the object again"
        )
    return read_adapter(path)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
