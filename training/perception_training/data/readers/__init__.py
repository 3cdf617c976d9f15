"""All data sets by name: one file for each, opened by `open_dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from perception.core.config import from_mapping
from perception.core.errors import unknown_name
from perception_training.data.sequences import Dataset

READERS: dict[str, str] = {
    "bop": "bop:Bop",
    "co3dv2": "co3dv2:Co3dV2",
    "colmap": "colmap:Colmap",
    "dl3dv": "dl3dv:Dl3dv",
    "image_folders": "image_folders:ImageFolders",
    "mesh_views": "mesh_views:MeshFolder",
    "mvimgnet": "mvimgnet:MvImgNet",
    "navi": "navi:Navi",
    "objaverse": "objaverse:Objaverse",
    "onepose_lowtexture": "onepose_lowtexture:OnePoseLowTexture",
    "pf_pascal": "pf_pascal:PfPascal",
    "primitives": "primitives:Primitives",
    "rosbags": "rosbags:Rosbags",
    "scannet": "scannet:ScanNet",
    "scenes": "scenes:ProceduralScenes",
    "seven_scenes": "seven_scenes:SevenScenes",
    "shards": "shards:Shards",
    "spair71k": "spair71k:Spair71k",
    "tapvid_davis": "tapvid_davis:TapVidDavis",
    "tum_rgbd": "tum_rgbd:TumRgbd",
    "videos": "videos:Videos",
    "ycb_video": "ycb_video:YcbVideo",
    "youtube_vos": "youtube_vos:YoutubeVos",
}
"""Name → "module:Class"; resolved when it is asked for."""


def reader_class(name: str) -> type[Dataset]:
    """The reader of this name. Raises ConfigError that lists the known ones."""
    if name not in READERS:
        raise unknown_name("data set", name, READERS)
    module, kind = READERS[name].split(":")
    found: type[Dataset] = getattr(import_module(f"perception_training.data.readers.{module}"), kind)
    return found


def open_dataset(name: str, root: str | Path, options: Mapping[str, Any] | None = None) -> Dataset:
    """Open the copy of a data set that lies at `root`. Raises ConfigError for options that it does not have, InputError for another layout."""
    kind = reader_class(name)
    return kind(root, from_mapping(kind.Options, options or {}, name))
