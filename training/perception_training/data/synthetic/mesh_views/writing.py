"""Render meshes into a folder in the layout of Objaverse renders; what is complete is left alone, so that an interrupted run is resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.core.config import to_mapping
from perception.core.errors import InputError
from perception.rendering.raycast import RenderedView
from perception_training.data.layouts.objaverse_renders import (
    PARTIAL_SUFFIX,
    SETTINGS_FILE,
    read_settings,
    write_poses,
    write_settings,
    write_view,
)
from perception_training.data.synthetic.mesh_views.config import MeshViewsConfig
from perception_training.data.synthetic.mesh_views.normalisation import poses
from perception_training.data.synthetic.mesh_views.views import MeshViews, object_name

_OF_THE_MACHINE = ("num_threads",)
"""Settings that do not change what is rendered."""


@dataclass(frozen=True)
class RenderReport:
    """What came of a run: objects rendered now, objects that were complete before, and messages about meshes that could not be rendered."""

    rendered: tuple[str, ...]
    complete: tuple[str, ...]
    bad: tuple[str, ...]


def write_mesh_views(
    paths: Sequence[Path],
    out: Path,
    config: MeshViewsConfig,
    seed: int = 0,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RenderReport:
    """Render all views of each mesh into `out/<folder>/<stem>`.

    progress (views done, views in all). Raises InputError that names the file for a mesh that cannot be read, unless `skip_bad`: then it is
    reported and the next one is rendered; and for a folder that holds renders of other settings or another seed.
    """
    names = _names(paths)
    _prepare(out, config, seed)
    rendered: list[str] = []
    complete: list[str] = []
    bad: list[str] = []
    for number, (name, path) in enumerate(names.items()):

        def report(views: int, before: int = number * config.num_views) -> None:
            if progress is not None:
                progress(before + views, len(names) * config.num_views)

        if (out / name).is_dir():
            complete.append(name)
        else:
            try:
                _write_object(MeshViews(path, config, seed, name), out, report)
                rendered.append(name)
            except InputError as error:
                if not skip_bad:
                    raise
                bad.append(str(error))
        report(config.num_views)
    return RenderReport(tuple(rendered), tuple(complete), tuple(bad))


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Name in the folder → mesh. Raises InputError for two meshes of one name."""
    names: dict[str, Path] = {}
    for path in paths:
        name = object_name(path)
        if name in names:
            raise InputError(f"meshes {names[name]} and {path} would both be written as {name}: folder or file name must differ")
        names[name] = path
    return names


def _prepare(out: Path, config: MeshViewsConfig, seed: int) -> None:
    """Make the folder with poses and settings, or see that those that are there are the same."""
    settings: dict[str, Any] = {"seed": seed, **{key: value for key, value in to_mapping(config).items() if key not in _OF_THE_MACHINE}}
    before = read_settings(out)[1] if (out / SETTINGS_FILE).exists() else None
    if before is not None and before != settings:
        key = next(key for key in {**settings, **before} if settings.get(key) != before.get(key))
        raise InputError(
            f"{out / SETTINGS_FILE}: the renders there have {key} = {before.get(key)!r}, asked for is {settings.get(key)!r}: "
            "the settings must be the same, or --out another folder"
        )
    if before is None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_poses(out, poses(config.num_views, config.distance))
            write_settings(out, config.camera, settings)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error


def _write_object(sequence: MeshViews, out: Path, progress: Callable[[int], None]) -> None:
    """Write into a folder beside the object's, which gets its name when all views are there: whatever has the name is complete."""
    partial = out / f"{sequence.name}{PARTIAL_SUFFIX}"
    shutil.rmtree(partial, ignore_errors=True)

    def write(index: int, view: RenderedView) -> None:
        write_view(partial, index, view.image, view.mask, view.depth_m)

    try:
        for done, _ in enumerate(sequence.map_views(write), start=1):
            progress(done)
        partial.rename(out / sequence.name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
