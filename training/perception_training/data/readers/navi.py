"""NAVI (Jampani et al., 2023): photographs of scanned objects with poses, depth and masks that come from aligning the scan.

Layout and conventions as in google/navi (README, data_util.py, transformations.py, gl/), v1.0 to v1.5::

    <object>/3d_scan/<object>.{obj,glb}                     the scan, millimetres
    <object>/{multiview[-_]NN[-_]<camera>,video[-_]…,wild_set}/annotations.json    a list with, for each image: camera {q (w, x, y, z), t in mm,
                                                            focal_length in px}, filename, image_size (height, width), split (train or val), occluded,
                                                            object_id, camera_model and scene_name
    <object>/<scene>/images/NNN.jpg                         turned by an orientation tag where the photographer held the camera upright
    <object>/<scene>/depth/NNN.png                          16 bit: depth along z in mm = 65535 * 10 / value, 0 where the object is not
    <object>/<scene>/masks/NNN.png                          non-zero on the object

q and t map the object to a camera with x right, y down, z forward (the intrinsics that google/navi multiplies them with have positive focal lengths,
w = +z, and image rows that grow with y). The principal point is at (width // 2, height // 2) counted from the corner of the image, as OpenGL does:
half a pixel less where pixel centres are at integers. The world of a sequence is the object; in `wild_set` each photograph has another background.

The relative depth of mbanani/probe3d (evals/datasets/navi.py), behind its published depth figures, is over the known pixels of each image
(d - min) / max(0.01, max - min) * 0.99 + 0.01, with d in metres; poses stay in metres, so that points cannot be lifted with it (unit: arbitrary).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3, so3
from perception.io.images import read_depth_image, read_image
from perception_training.data.layouts.json_entries import entry, numbers, read_list
from perception_training.data.layouts.upright_images import read_upright_image
from perception_training.data.sample import ObjectTrack
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

MILLIMETRE = 1e-3
MASK_ID = 1

_DISPARITY_RANGE = 65535 * 10.0
"""The encoded value is this over the depth in millimetres."""

_DOWNSAMPLED_SIDE = 1024
"""Length of the shorter side of Probe3D's copies."""


@dataclass(frozen=True, kw_only=True)
class NaviOptions(Checked):
    """Which images of NAVI, and which depth."""

    scenes: Literal["all", "multiview", "video", "wild"] = "all"
    """Kinds of image collections."""
    split: Literal["all", "train", "val"] = "all"
    """Images of the annotated split only."""
    occluded: bool = True
    """Keep images in which something hides part of the object."""
    relative_depth: bool = False
    """Depth of each image scaled to [0.01, 1], as Probe3D's navi_reldepth."""
    downsampled: bool = False
    """Read the copies downsampled_NNN (shorter side 1024) that Probe3D's resize_navi.py puts beside the photographs; intrinsics follow."""


class Navi(Dataset):
    """Objects photographed in many places (NAVI): masks, depth and poses aligned to a scan.

    One sequence, named <object>/<scene>, for each collection of images; the object is the world and the one entry of `objects`. Images may have
    different sizes.
    """

    name = "navi"
    Options = NaviOptions
    options: NaviOptions

    def _list_sequences(self) -> tuple[str, ...]:
        wanted = {"all": ("multiview", "video", "wild")}.get(self.options.scenes, (self.options.scenes,))
        found = [path.parent for path in self.root.glob("*/*/annotations.json") if path.parent.name.startswith(wanted)]
        return tuple(sorted(f"{scene.parent.name}/{scene.name}" for scene in found))

    def open_sequence(self, name: str) -> RecordedSequence:
        scene = self.root / name
        annotations = scene / "annotations.json"
        chosen = []
        for number, content in enumerate(read_list(annotations)):
            place = f"{annotations}, entry {number}"
            if self.options.split != "all" and entry(content, "split", place, str) != self.options.split:
                continue
            if self.options.occluded or not entry(content, "occluded", place, bool):
                chosen.append((content, place))
        if not chosen:
            raise InputError(f"{annotations}: no image is left of split {self.options.split}{'' if self.options.occluded else ' without occlusion'}")
        poses = [_camera_from_object(content, place) for content, place in chosen]
        records = tuple(self._record(scene, content, place, pose) for (content, place), pose in zip(chosen, poses, strict=True))
        object_name = scene.parent.name
        mesh = scene.parent / "3d_scan" / f"{object_name}.obj"
        scan = ObjectTrack(
            name=object_name,
            camera_from_object=np.stack(poses),
            mask_id=MASK_ID,
            mesh=mesh if mesh.is_file() else None,
            mesh_unit_m=MILLIMETRE,
        )
        return RecordedSequence(
            self.name,
            name,
            records,
            objects=(scan,),
            text=object_name.replace("_", " "),
            unit="arbitrary" if self.options.relative_depth else "metre",
            attributes={"collection": scene.name.partition("-")[0].partition("_")[0]},
        )

    def _record(self, scene: Path, content: dict[str, Any], place: str, pose: NDArray[np.float64]) -> FrameRecord:
        stem = Path(entry(content, "filename", place, str)).stem
        stored = f"downsampled_{stem}" if self.options.downsampled else stem
        image = scene / "images" / f"{stored}.jpg"
        camera = _camera(content, place)
        if self.options.downsampled:
            factor = _DOWNSAMPLED_SIDE / min(camera.width, camera.height)
            camera = camera.resized(int(camera.width * factor), int(camera.height * factor))
        return FrameRecord(
            name=stem,
            source=image,
            read_image=functools.partial(read_upright_image, image),
            camera=camera,
            world_from_camera=se3.inverse(pose),
            read_depth=functools.partial(_read_depth, scene / "depth" / f"{stored}.png", self.options.relative_depth),
            read_mask=None if self.options.downsampled else functools.partial(_read_mask, scene / "masks" / f"{stem}.png"),
        )


def _camera(content: dict[str, Any], place: str) -> Camera:
    height, width = (int(side) for side in numbers(content, "image_size", place, (2,)))
    focal = float(numbers(entry(content, "camera", place, dict), "focal_length", place, ()))
    try:
        return Camera(width, height, focal, focal, width // 2 - 0.5, height // 2 - 0.5)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _camera_from_object(content: Any, place: str) -> NDArray[np.float64]:
    camera = entry(content, "camera", place, dict)
    w, x, y, z = numbers(camera, "q", place, (4,))
    if w * w + x * x + y * y + z * z < 1e-12:
        raise InputError(f"{place}: q is zero: must be a quaternion (w, x, y, z)")
    return np.asarray(se3.from_rotation_translation(so3.from_quaternion_xyzw(np.array([x, y, z, w])), numbers(camera, "t", place, (3,)) * MILLIMETRE))


def _read_depth(path: Path, relative: bool) -> NDArray[np.float32]:
    encoded = read_depth_image(path).astype(np.float64)
    depth_m = np.divide(_DISPARITY_RANGE * MILLIMETRE, encoded, out=np.zeros_like(encoded), where=encoded > 0)
    return (relative_depth(depth_m) if relative else depth_m).astype(np.float32)


def relative_depth(depth_m: NDArray) -> NDArray:
    """(height, width) depth scaled to [0.01, 1] between its own nearest and farthest known pixel (at least 1 cm apart); 0 stays 0."""
    known = depth_m > 0
    if not known.any():
        return depth_m
    low, high = depth_m[known].min(), depth_m[known].max()
    return np.where(known, (depth_m - low) / max(0.01, high - low) * 0.99 + 0.01, 0)


def _read_mask(path: Path) -> NDArray[np.int32]:
    return (read_image(path).max(axis=2) > 0).astype(np.int32) * MASK_ID
