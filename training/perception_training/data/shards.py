"""Clips as members of tar files that plain webdataset reads too, with an index for random access.

One webdataset sample is one clip. Its members are KEY.sample.json (all that is not an array, and the sizes of the members that follow, in order),
KEY.tracks.npz, and for each frame KEY.FFFFFF.image.png (or .jpg), .depth.png (or .npz), .mask.png (or .npz), .normals.npz and .dynamic.png, as far as
there are any. Beside shard-NNNNNN.tar lies shard-NNNNNN.index.json: for each clip where its sample.json starts and how long it is. From there on the
sizes tell where each frame lies. `shards.json` lists the shards and says whether all of them have been written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception_training.data import frame_coding as coding
from perception_training.data.frame_coding import CodingConfig
from perception_training.data.sample import ObjectTrack, Sample, Tracks
from perception_training.data.sequences import FrameSequence, RecordedSequence

FORMAT, VERSION = "perception-shards", 1
LIST_FILE = "shards.json"
HEADER_BYTES = 512
"""A member of a tar file: a header of this size, then its bytes, filled up to a multiple of it."""
_FRAMES_AT_ONCE = 8
_MAPS = ("depth", "mask", "normals", "dynamic")

Read = Callable[[str], bytes]
"""Bytes of a member by its suffix."""


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """A clip ready to be written: the name under which it can be opened, sample.json as plain data, and the other members by suffix."""

    name: str
    description: dict[str, Any]
    members: dict[str, bytes] = field(default_factory=dict)


def padded(size: int) -> int:
    """Bytes that the contents of a member take up in a tar file."""
    return -(-size // HEADER_BYTES) * HEADER_BYTES


def encode_clip(name: str, sequence: FrameSequence, frames: Sequence[int], config: CodingConfig) -> EncodedClip:
    """These frames of a sequence; a few are in memory at a time, apart from their encoded bytes."""
    blocks = [frames[start : start + _FRAMES_AT_ONCE] for start in range(0, len(frames), _FRAMES_AT_ONCE)]
    sources = [sequence.records[frame].source for frame in frames] if isinstance(sequence, RecordedSequence) else None
    return _encode(name, (sequence.load(block) for block in blocks), sources, config)


def encode_sample(name: str, sample: Sample, config: CodingConfig) -> EncodedClip:
    """All of a sample, such as a renderer makes."""
    return _encode(name, iter([sample]), None, config)


def _encode(name: str, blocks: Iterator[Sample], sources: list[Path] | None, config: CodingConfig) -> EncodedClip:
    members: dict[str, bytes] = {}
    frames: list[dict[str, Any]] = []
    tracks: list[Tracks] = []
    objects: list[tuple[ObjectTrack, ...]] = []
    for block in blocks:
        for row in range(len(block)):
            frames.append(_encode_frame(block, row, f"{len(frames):06d}", sources[len(frames)] if sources else None, members, config))
        tracks += [] if block.tracks is None else [block.tracks]
        objects.append(block.objects)
    has = [part for part, values in (("cameras", block.cameras), ("poses", block.world_from_camera), ("times", block.times_s)) if values is not None]
    has += ["mask_known"] if block.mask_known is not None else []
    has += [part for part, values in zip(_MAPS, (block.depth_m, block.masks, block.normals, block.dynamic), strict=True) if values is not None]
    description = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": block.dataset,
        "sequence": block.sequence,
        "text": block.text,
        "unit": block.unit,
        "attributes": dict(block.attributes),
        "has": has,
        "frames": frames,
        "objects": [_describe_object([part[number] for part in objects]) for number in range(len(objects[0]))],
    }
    if tracks:
        arrays, names = _joined_tracks(tracks)
        members = {"tracks.npz": coding.encode_arrays(arrays), **members}
        description["track_names"] = names
    return EncodedClip(name, description, members)


def _encode_frame(sample: Sample, row: int, prefix: str, source: Path | None, members: dict[str, bytes], config: CodingConfig) -> dict[str, Any]:
    """Add the members of one frame; returns its description."""
    camera = sample.cameras[row] if sample.cameras is not None else None
    suffix, data = coding.encode_image(sample.images[row], source, config)
    frame: dict[str, Any] = {"name": sample.frame_names[row], "image": f"image.{suffix}", "camera": None if camera is None else asdict(camera)}
    members[f"{prefix}.{frame['image']}"] = data
    if sample.times_s is not None:
        frame["time_s"] = float(sample.times_s[row])
    if sample.world_from_camera is not None:
        frame["world_from_camera"] = _plain(sample.world_from_camera[row])
    if sample.depth_m is not None:
        frame["depth"], data, frame["depth_rule"] = coding.encode_depth(sample.depth_m[row], config, sample.place(row))
        members[f"{prefix}.{frame['depth']}"] = data
    if sample.masks is not None:
        suffix, data = coding.encode_ids(sample.masks[row])
        frame["mask"] = f"mask.{suffix}"
        members[f"{prefix}.{frame['mask']}"] = data
    if sample.mask_known is not None:
        frame["mask_known"] = bool(sample.mask_known[row])
    if sample.normals is not None:
        frame["normals"] = "normals.npz"
        members[f"{prefix}.normals.npz"] = coding.encode_array(sample.normals[row])
    if sample.dynamic is not None:
        frame["dynamic"] = "dynamic.png"
        members[f"{prefix}.dynamic.png"] = coding.encode_ids(sample.dynamic[row].astype(np.int32))[1]
    return frame


def _plain(values: NDArray[np.float64]) -> list | None:
    """Nested lists for JSON, which keep every bit of a float64; None for what is not known."""
    return values.tolist() if np.isfinite(values).all() else None


def _joined_tracks(parts: list[Tracks]) -> tuple[dict[str, NDArray], list[str]]:
    arrays: dict[str, NDArray] = {
        "points_px": np.concatenate([part.points_px for part in parts]),
        "visible": np.concatenate([part.visible for part in parts]),
    }
    world = [part.points_world for part in parts if part.points_world is not None]
    if world:
        arrays["points_world"] = np.concatenate(world)
    queries = [part.query_frames for part in parts if part.query_frames is not None]
    if queries:
        starts = np.cumsum([0, *(len(part.points_px) for part in parts[:-1])])
        arrays["query_frames"] = np.max([np.where(query >= 0, query + start, -1) for query, start in zip(queries, starts, strict=True)], axis=0)
    return arrays, list(parts[0].names)


def _describe_object(parts: list[ObjectTrack]) -> dict[str, Any]:
    first = parts[0]
    shares = [part.visible_share for part in parts if part.visible_share is not None]
    boxes = [part.boxes_px for part in parts if part.boxes_px is not None]
    return {
        "name": first.name,
        "mask_id": first.mask_id,
        "mesh": None if first.mesh is None else str(first.mesh),
        "mesh_unit_m": first.mesh_unit_m,
        "bounds": None if first.bounds is None else first.bounds.tolist(),
        "camera_from_object": [_plain(pose) for part in parts for pose in part.camera_from_object],
        "visible_share": [float(share) if np.isfinite(share) else None for part in shares for share in part] if shares else None,
        "boxes_px": [_plain(box) for part in boxes for box in part] if boxes else None,
    }


def decode_clip(description: dict[str, Any], read: Read, chosen: Sequence[int], place: str) -> Sample:
    """The sample of the `chosen` frames of a clip. Raises InputError that names `place` for damaged members."""
    if description.get("format") != FORMAT or description.get("version") != VERSION:
        found = f"{description.get('format')} {description.get('version')}"
        raise InputError(f"{place}: format {found}: must be {FORMAT} {VERSION}")
    has = set(description["has"])
    frames = [description["frames"][number] for number in chosen]
    prefixes = [f"{number:06d}" for number in chosen]

    def members(part: str) -> list[tuple[dict[str, Any], str, bytes, str]]:
        names = [f"{prefix}.{frame[part]}" for prefix, frame in zip(prefixes, frames, strict=True)]
        return [(frame, frame[part], read(name), f"{place}: {name}") for frame, name in zip(frames, names, strict=True)]

    return Sample(
        dataset=description["dataset"],
        sequence=description["sequence"],
        frame_names=tuple(frame["name"] for frame in frames),
        images=tuple(coding.decode_image(data, where) for _, _, data, where in members("image")),
        times_s=np.array([frame["time_s"] for frame in frames]) if "times" in has and all("time_s" in frame for frame in frames) else None,
        cameras=tuple(_camera(frame["camera"]) for frame in frames) if "cameras" in has else None,
        world_from_camera=np.stack([_matrix(frame["world_from_camera"]) for frame in frames]) if "poses" in has else None,
        depth_m=tuple(coding.decode_depth(data, suffix, frame["depth_rule"], where) for frame, suffix, data, where in members("depth"))
        if "depth" in has
        else None,
        masks=tuple(coding.decode_ids(data, suffix, where) for _, suffix, data, where in members("mask")) if "mask" in has else None,
        normals=tuple(coding.decode_array(data, where) for _, _, data, where in members("normals")) if "normals" in has else None,
        dynamic=tuple(coding.decode_ids(data, suffix, where) != 0 for _, suffix, data, where in members("dynamic")) if "dynamic" in has else None,
        tracks=_decode_tracks(description, read, chosen, place),
        objects=tuple(_object(item).at_frames(chosen) for item in description["objects"]),
        text=description["text"],
        unit=description["unit"],
        mask_known=np.array([frame["mask_known"] for frame in frames], np.bool_) if "mask_known" in has else None,
        attributes=description["attributes"],
    )


def _decode_tracks(description: dict[str, Any], read: Read, chosen: Sequence[int], place: str) -> Tracks | None:
    if "track_names" not in description:
        return None
    arrays: dict[str, Any] = coding.decode_arrays(read("tracks.npz"), f"{place}: tracks.npz")
    return Tracks(**arrays, names=tuple(description["track_names"])).at_frames(chosen)


def _matrix(values: list | None) -> NDArray[np.float64]:
    return np.full((4, 4), np.nan) if values is None else np.array(values, np.float64)


def _camera(values: dict[str, Any] | None) -> Camera | None:
    return None if values is None else Camera(**{**values, "distortion": tuple(values["distortion"])})


def _object(values: dict[str, Any]) -> ObjectTrack:
    shares, boxes = values["visible_share"], values["boxes_px"]
    return ObjectTrack(
        name=values["name"],
        camera_from_object=np.stack([_matrix(pose) for pose in values["camera_from_object"]]),
        mask_id=values["mask_id"],
        bounds=None if values["bounds"] is None else np.array(values["bounds"]),
        mesh=None if values["mesh"] is None else Path(values["mesh"]),
        visible_share=None if shares is None else np.array([np.nan if share is None else share for share in shares]),
        boxes_px=None if boxes is None else np.array([np.full(4, np.nan) if box is None else box for box in boxes]),
        mesh_unit_m=values["mesh_unit_m"],
    )


def stream_samples(urls: str | Sequence[str], num_clips_shuffled: int = 0, seed: int = 0) -> Iterator[Sample]:
    """All clips of shards in the order of the files, read from front to back: for shards on another machine, or on disks that are slow to seek.

    urls as webdataset takes them (paths, `pipe:` commands, braces) · num_clips_shuffled: clips that are kept back to be shuffled.
    """
    import webdataset

    clips = webdataset.WebDataset(urls, shardshuffle=False)
    if num_clips_shuffled:
        clips = clips.shuffle(num_clips_shuffled, seed=seed)
    for members in clips:
        place = f"{members['__url__']}: {members['__key__']}"
        description = json.loads(members["sample.json"])
        yield decode_clip(description, members.__getitem__, range(len(description["frames"])), place)
