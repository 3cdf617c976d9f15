"""How the parts of one frame become bytes of a shard, and back: images, depth, masks, normals and motion."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError

DEPTH_STEPS = (1000.0, 5000.0, 10000.0, 256.0)
"""Units of 16-bit depth images that are tried for an exact fit: mm, TUM RGB-D's, tenths of mm, KITTI's."""
_MAX_16_BIT = 65535


@dataclass(frozen=True, kw_only=True)
class CodingConfig(Checked):
    """How frames are stored. The defaults lose nothing."""

    image: Literal["original", "png", "jpeg"] = "original"
    """original: the bytes of the source file where they decode to just these pixels, else PNG; png: exact; jpeg: smaller, with loss."""
    quality: Annotated[int, Range(1, 100)] = 95
    """Quality of JPEG."""
    depth: Literal["exact", "float16", "millimetre"] = "exact"
    """exact: 16-bit PNG where that is exact, else float32; float16: off by at most 1 part in 2048 (up to 65504 units); millimetre: 16-bit PNG of
    thousandths of the unit, off by at most half of one (up to 65.535 units)."""


def encode_image(image: NDArray[np.uint8], source: Path | None, config: CodingConfig) -> tuple[str, bytes]:
    """(suffix, bytes) of an RGB image."""
    if config.image == "original" and source is not None and source.suffix.lower() in (".jpg", ".jpeg", ".png") and source.is_file():
        data = source.read_bytes()
        decoded = _decoded(data)
        if decoded is not None and decoded.shape == image.shape and np.array_equal(decoded, image):
            return "jpg" if source.suffix.lower() != ".png" else "png", data
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if config.image == "jpeg":
        return "jpg", cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, config.quality))[1].tobytes()
    return "png", _png(bgr)


def decode_image(data: bytes, place: str) -> NDArray[np.uint8]:
    """(height, width, 3) RGB. Raises InputError that names `place`."""
    image = _decoded(data)
    if image is None:
        raise InputError(f"{place}: {len(data)} bytes that are no image")
    return image


def encode_depth(depth: NDArray[np.float32], config: CodingConfig, place: str) -> tuple[str, bytes, dict[str, Any]]:
    """(suffix, bytes, what is needed to read them) of a depth map."""
    if config.depth == "float16":
        if depth.max(initial=0) > float(np.finfo(np.float16).max):
            raise InputError(f"{place}: depth up to {depth.max():g} does not fit into float16; must be at most 65504")
        return "depth.npz", encode_array(depth.astype(np.float16)), {}
    if config.depth == "millimetre":
        levels = np.rint(depth.astype(np.float64) * 1000)
        if levels.max(initial=0) > _MAX_16_BIT:
            raise InputError(f"{place}: depth up to {depth.max():g} does not fit into 16 bits of thousandths; must be at most 65.535")
        return "depth.png", _png(levels.astype(np.uint16)), {"divide_by": 1000.0}
    for step in DEPTH_STEPS:
        levels = np.rint(depth.astype(np.float64) * step)
        if levels.max(initial=0) <= _MAX_16_BIT and levels.min(initial=0) >= 0:
            coded = levels.astype(np.uint16)
            for key in ("divide_by", "multiply_by"):
                rule = {key: step if key == "divide_by" else 1 / step}
                if np.array_equal(_metres(coded, rule), depth):
                    return "depth.png", _png(coded), rule
    return "depth.npz", encode_array(depth), {}


def decode_depth(data: bytes, suffix: str, rule: Mapping[str, Any], place: str) -> NDArray[np.float32]:
    """(height, width) float32. Raises InputError that names `place`."""
    if suffix == "depth.npz":
        return decode_array(data, place).astype(np.float32, copy=False)
    return _metres(_levels(data, place), rule)


def encode_ids(ids: NDArray[np.int32]) -> tuple[str, bytes]:
    """(suffix without the map's name, bytes) of whole numbers: PNG with 8 or 16 bits where they fit."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > _MAX_16_BIT:
        return "npz", encode_array(ids)
    return "png", _png(ids.astype(np.uint8 if high <= 255 else np.uint16))


def decode_ids(data: bytes, suffix: str, place: str) -> NDArray[np.int32]:
    """(height, width) int32. Raises InputError that names `place`."""
    return (decode_array(data, place) if suffix.endswith("npz") else _levels(data, place)).astype(np.int32, copy=False)


def encode_array(values: NDArray) -> bytes:
    """One array as compressed npz."""
    return encode_arrays({"values": values})


def encode_arrays(values: Mapping[str, NDArray]) -> bytes:
    """Several arrays as compressed npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **values)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode_array(data: bytes, place: str) -> NDArray:
    """The array of `encode_array`."""
    arrays = decode_arrays(data, place)
    if "values" not in arrays:
        raise InputError(f"{place}: holds arrays {sorted(arrays)}: must hold 'values'")
    return arrays["values"]


def decode_arrays(data: bytes, place: str) -> dict[str, NDArray]:
    """The arrays of `encode_arrays`; objects are refused. Raises InputError that names `place`."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{place}: {len(data)} bytes that are no npz arrays ({error})") from error


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    if not data:
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def _png(pixels: NDArray) -> bytes:
    # Level 1 with OpenCV's filters: files a few percent larger than the default, several times faster to write.
    return cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()


def _levels(data: bytes, place: str) -> NDArray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None or pixels.ndim != 2:
        raise InputError(f"{place}: {len(data)} bytes that are no image with one channel")
    return pixels


def _metres(levels: NDArray, rule: Mapping[str, Any]) -> NDArray[np.float32]:
    """Readers of 16-bit depth divide or multiply in float32, which differs in the last bit; both are tried when writing."""
    values = levels.astype(np.float32)
    return values / np.float32(rule["divide_by"]) if "divide_by" in rule else values * np.float32(rule["multiply_by"])
