"""Which frames of a run are worth a look, and their pictures out of a recording: best, median, worst and missed, and the features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.evaluation.predictions import PosePrediction, write_atomically
from perception.evaluation.run_folder import PICTURES_FOLDER
from perception.evaluation.score import FrameError, Score, shown
from perception.io import bag_messages, ros_images
from perception.io.bags import BagReader

Kind = Literal["best", "median", "worst", "missed", "features"]

_INDEX_FILE = "pictures.json"
_IMAGE_TYPES = (bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)
_OVERLAY_WIDTH_PX, _FEATURES_WIDTH_PX = 640, 320
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """One picture of the report: why it is there, what it shows, its JPEG file's name and the stamp of its frame."""

    kind: Kind
    caption: str
    time_ns: int
    file: str


@dataclass(frozen=True)
class _Choice:
    kind: Kind
    caption: str
    time_ns: int


def save_pictures(
    folder: str | Path,
    score: Score,
    recording: str | Path,
    overlay_topic: str = "/object_pose/overlay",
    features_topic: str = "/features/visualization",
    num_each: int = 2,
    num_features: int = 6,
) -> list[Picture]:
    """Pictures of telling frames into `<folder>/pictures`. Topics may be raw or `<topic>/compressed`; one that is missing gives none."""
    folder = Path(folder) / PICTURES_FOLDER
    with BagReader(recording) as reader:
        overlay, features = (_image_topic(reader, topic) for topic in (overlay_topic, features_topic))
        start_ns = min((record.time_ns for record in score.predictions), default=0)
        overlay_times = _stamps(reader, overlay)
        features_times = sorted(_stamps(reader, features))
        strip = [
            _Choice("features", f"{(features_times[index] - start_ns) * 1e-9:.1f} s", features_times[index])
            for index in _spread(len(features_times), num_features)
        ]
        pictures = _extract(reader, overlay, choose_frames(score, overlay_times, num_each), _OVERLAY_WIDTH_PX, folder)
        pictures += _extract(reader, features, strip, _FEATURES_WIDTH_PX, folder)
    write_atomically(folder / _INDEX_FILE, json.dumps([asdict(picture) for picture in pictures], indent=2) + "\n")
    return pictures


def read_pictures(folder: str | Path) -> list[Picture]:
    """The pictures of a run folder; none when there are none."""
    path = Path(folder) / PICTURES_FOLDER / _INDEX_FILE
    if not path.is_file():
        return []
    try:
        return [Picture(**item) for item in json.loads(path.read_text())]
    except (TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not an index of pictures ({error})") from error


def choose_frames(score: Score, available_ns: set[int], num_each: int = 2) -> list[_Choice]:
    """Best, median and worst answered frames and some missed ones, each frame once. By error where truth is known, else by score and inliers."""
    items: list[FrameError | PosePrediction] = (
        [error for error in score.errors if error.truth.time_ns in available_ns]
        if score.errors
        else [record for record in score.predictions if record.time_ns in available_ns]
    )
    start_ns = min((record.time_ns for record in score.predictions), default=0)
    records = [item.prediction if isinstance(item, FrameError) else item for item in items]
    answered = sorted((i for i, record in enumerate(records) if record.camera_from_object is not None), key=lambda i: _badness(items[i]))
    missed = [i for i, record in enumerate(records) if record.camera_from_object is None]
    middle = max(0, (len(answered) - num_each) // 2)
    groups: list[tuple[Kind, Sequence[int]]] = [
        ("best", answered[:num_each]),
        ("worst", answered[::-1][:num_each]),
        ("median", answered[middle : middle + num_each]),
        ("missed", [missed[i] for i in _spread(len(missed), num_each)]),
    ]
    chosen: list[_Choice] = []
    for kind, indices in groups:
        for index in indices:
            if all(choice.time_ns != records[index].time_ns for choice in chosen):
                chosen.append(_Choice(kind, _caption(items[index], start_ns), records[index].time_ns))
    order = ("best", "median", "worst", "missed")
    return sorted(chosen, key=lambda choice: order.index(choice.kind))


def _badness(item: FrameError | PosePrediction) -> float:
    """The larger of both errors in its usual unit (1 cm weighs as much as 1 deg, as in the thresholds); without truth the score, turned round."""
    return max(item.rotation_deg, item.translation_cm) if isinstance(item, FrameError) else -item.score


def _caption(item: FrameError | PosePrediction, start_ns: int) -> str:
    record = item.prediction if isinstance(item, FrameError) else item
    parts = [f"{(record.time_ns - start_ns) * 1e-9:.1f} s"]
    if record.object_name or isinstance(item, FrameError):
        parts.append(record.object_name)
    if record.camera_from_object is None:
        parts.append(record.reason or "no pose")
    else:
        if isinstance(item, FrameError):
            parts.append(f"{shown(item.translation_cm)} cm, {shown(item.rotation_deg)}°")
        parts.append(f"{record.num_inliers} of {record.num_matches} matches agree")
    return " · ".join(parts)


def _spread(num: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `num`, evenly spread."""
    return sorted({int(index) for index in np.linspace(0, num - 1, min(num, wanted)).round()}) if num else []


def _image_topic(reader: BagReader, topic: str) -> str | None:
    known = reader.find_topics(*_IMAGE_TYPES)
    return next((name for name in (topic, f"{topic}/compressed") if name in known), None)


def _stamps(reader: BagReader, topic: str | None) -> set[int]:
    return {ros_images.stamp_ns(item.message.header.stamp) for item in reader.messages([topic])} if topic else set()


def _extract(reader: BagReader, topic: str | None, choices: Sequence[_Choice], width_px: int, folder: Path) -> list[Picture]:
    if topic is None:
        return []
    wanted = {choice.time_ns: choice for choice in choices}
    found: dict[int, Picture] = {}
    for item in reader.messages([topic]):
        choice = wanted.get(ros_images.stamp_ns(item.message.header.stamp))
        if choice is not None and choice.time_ns not in found:
            name = f"{choice.kind}_{choice.time_ns}.jpg"
            write_atomically(folder / name, _jpeg(ros_images.message_to_rgb(item.message), width_px))
            found[choice.time_ns] = Picture(choice.kind, choice.caption, choice.time_ns, name)
    return [found[choice.time_ns] for choice in choices if choice.time_ns in found]


def _jpeg(image: NDArray[np.uint8], max_width_px: int) -> bytes:
    height, width = image.shape[:2]
    if width > max_width_px:
        image = cv2.resize(image, (max_width_px, max(1, round(height * max_width_px / width))), interpolation=cv2.INTER_AREA).astype(np.uint8)
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert encoded
    return data.tobytes()
