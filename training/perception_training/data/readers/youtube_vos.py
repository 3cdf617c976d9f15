"""YouTube-VOS 2018 and 2019 (Xu et al., 2018): videos with masks of objects in every fifth frame.

Layout as distributed (https://youtube-vos.org/dataset/vos), alike in both years; checked against visionml/pytracking (ltr/dataset/youtubevos.py)::

    {train,valid,test}/JPEGImages/<video>/<frame>.jpg       every fifth frame, five digits, which need not start at 0
    {train,valid,test}/Annotations/<video>/<frame>.png      palette ids = ids of the objects; valid and test: only where an object first appears
    {train,valid,test}/meta.json                            {"videos": {<video>: {"objects": {<id>: {"category", "frames"}}}}}
    {train,valid,test}_all_frames/JPEGImages/<video>/<frame>.jpg    every frame of the video, without masks

`root` is the folder that holds train, valid and test (the one of a year, if both lie side by side). Times are the frame's number at 30 frames/s,
the rate that the paper states for all videos.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.io.images import list_images, read_image, read_label_image
from perception_training.data.layouts.json_entries import entry, read_object
from perception_training.data.sample import ObjectTrack
from perception_training.data.sequences import UNKNOWN_POSE, Dataset, FrameRecord, RecordedSequence

FRAMES_PER_SECOND = 30.0


@dataclass(frozen=True, kw_only=True)
class YoutubeVosOptions(Checked):
    """Which part of YouTube-VOS."""

    split: Literal["train", "valid", "test"] = "train"
    """Part of the set."""
    all_frames: bool = False
    """All frames of the video instead of every fifth; masks are known in the same frames as before."""


class YoutubeVos(Dataset):
    """Videos with instance masks (YouTube-VOS).

    One sequence for each video of meta.json. Mask ids are those of the objects (`mask_id`); text is their categories. A frame without mask, and
    what is not yet annotated in the first frames of valid and test, reads 0; `mask_known` says which frames have one.
    """

    name = "youtube_vos"
    Options = YoutubeVosOptions
    options: YoutubeVosOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._folder = self.root / self.options.split
        self._meta = self._folder / "meta.json"
        self._videos = entry(read_object(self._meta), "videos", str(self._meta), dict)
        if not self._videos:
            raise InputError(f"{self._meta}: lists no videos; must list at least one")
        return tuple(sorted(self._videos))

    def open_sequence(self, name: str) -> RecordedSequence:
        place = f"{self._meta}, video {name}"
        objects = entry(entry(self._videos, name, str(self._meta), dict), "objects", place, dict)
        images = self._folder if not self.options.all_frames else self.root / f"{self.options.split}_all_frames"
        frames = list_images(images / "JPEGImages" / name)
        annotations = self._folder / "Annotations" / name
        masks = {path.stem: path for path in list_images(annotations)}
        _check_objects(objects, place)
        for path in frames:
            if not path.stem.isdigit():
                raise InputError(f"frame {path}: is named {path.stem!r}; must be named by its number")
        listed = {str(frame) for content in objects.values() for frame in content["frames"]}
        for frame in sorted(listed - {path.stem for path in frames}):
            raise InputError(f"{frames[0].parent / frame}.jpg: no such file, but {place} lists it")
        for frame in sorted(listed - set(masks)) if self.options.split == "train" else ():
            raise InputError(f"{annotations / frame}.png: no such file, but {place} lists it")
        records = tuple(
            FrameRecord(
                name=path.stem,
                source=path,
                read_image=functools.partial(read_image, path),
                read_mask=functools.partial(read_label_image, masks[path.stem]) if path.stem in masks else None,
                time_s=int(path.stem) / FRAMES_PER_SECOND,
            )
            for path in frames
        )
        unknown = np.repeat(UNKNOWN_POSE[None], len(records), axis=0)
        tracks = tuple(ObjectTrack(f"{content['category']} {key}", unknown, mask_id=int(key)) for key, content in objects.items())
        text = ", ".join(dict.fromkeys(content["category"] for content in objects.values()))
        return RecordedSequence(self.name, name, records, objects=tracks, text=text, attributes={"split": self.options.split})


def _check_objects(objects: dict[str, Any], place: str) -> None:
    if not objects:
        raise InputError(f"{place}: lists no objects; must list at least one")
    for key, content in objects.items():
        entry(content, "category", f"{place}, object {key}", str)
        frames = entry(content, "frames", f"{place}, object {key}", list)
        if not key.isdigit() or int(key) < 1 or not frames:
            raise InputError(f"{place}: object {key!r} with {len(frames)} frames; must be a number from 1 with at least one frame")
