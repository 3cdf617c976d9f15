"""Image and CameraInfo messages as arrays and cameras: pure functions on anything that has the messages' fields.

They take what rclpy delivers as well as what rosbags decodes, and know neither. Field meanings: sensor_msgs/Image, CompressedImage and
CameraInfo as documented in the package sensor_msgs and REP 118 (depth images).
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera

_NUMBERED = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)C(\d+)")
_NUMBERED_DTYPE = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
_NAMED: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3), "bgr8": ("u1", 3), "rgba8": ("u1", 4), "bgra8": ("u1", 4), "mono8": ("u1", 1),
    "rgb16": ("u2", 3), "bgr16": ("u2", 3), "rgba16": ("u2", 4), "bgra16": ("u2", 4), "mono16": ("u2", 1),
    "yuv422": ("u1", 2), "uyvy": ("u1", 2), "yuv422_yuy2": ("u1", 2), "yuyv": ("u1", 2), "nv12": ("u1", 1), "nv21": ("u1", 1),
}  # fmt: skip
_BAYER = {"rggb": cv2.COLOR_BayerRGGB2RGB, "bggr": cv2.COLOR_BayerBGGR2RGB, "gbrg": cv2.COLOR_BayerGBRG2RGB, "grbg": cv2.COLOR_BayerGRBG2RGB}
_NAMED |= {f"bayer_{pattern}{bits}": (f"u{bits // 8}", 1) for pattern in _BAYER for bits in (8, 16)}
_TO_RGB = {
    "bgr": cv2.COLOR_BGR2RGB, "rgba": cv2.COLOR_RGBA2RGB, "bgra": cv2.COLOR_BGRA2RGB, "mono": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB, "8UC3": cv2.COLOR_BGR2RGB, "8UC4": cv2.COLOR_BGRA2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21,
}  # fmt: skip
_TWO_PLANES = ("nv12", "nv21")
_DISTORTION_NAMES = {"": "plumb_bob", "none": "none", "plumb_bob": "plumb_bob", "rational_polynomial": "rational_polynomial"}
_DISTORTION_NAMES |= {"equidistant": "equidistant", "fisheye": "equidistant", "kannala_brandt4": "equidistant"}

INVALID_DEPTH_MM = 65535
"""Depth cameras write 0 or this value into 16-bit images where they measured nothing."""


def handled_encodings() -> list[str]:
    """The encodings of `image_to_array`, for error messages."""
    return [*sorted(_NAMED), *(f"{kind}C<n>" for kind in _NUMBERED_DTYPE)]


def _element(encoding: str) -> tuple[np.dtype, int]:
    if encoding in _NAMED:
        name, channels = _NAMED[encoding]
        return np.dtype(name), channels
    match = _NUMBERED.fullmatch(encoding)
    if match is None or int(match[2]) == 0:
        raise InputError(f"image encoding {encoding!r} is not handled; handled: {', '.join(handled_encodings())}")
    return np.dtype(_NUMBERED_DTYPE[match[1]]), int(match[2])


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def image_to_array(msg: Any) -> NDArray:
    """Pixels of an Image message in their own encoding and the machine's byte order.

    Rows may be padded: `step` is the row length in bytes. Returns (height, width) for one channel, (height, width, channels) for more;
    nv12 and nv21 give (height * 3 // 2, width). Raises InputError for unknown encodings and for sizes that do not fit together.
    """
    dtype, channels = _element(msg.encoding)
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height <= 0 or width <= 0:
        raise InputError(f"image size {width}x{height}: must be positive")
    num_rows = height * 3 // 2 if msg.encoding in _TWO_PLANES else height
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise InputError(f"image step {step}: a row of {width} pixels in {msg.encoding} takes {row_bytes} bytes, step must not be less")
    data = np.frombuffer(msg.data, np.uint8)
    needed = (num_rows - 1) * step + row_bytes
    if data.size < needed:
        raise InputError(f"image data has {data.size} bytes: {num_rows} rows with step {step} take {num_rows * step}")
    if data.size < num_rows * step:  # some drivers leave out the padding of the last row
        data = np.pad(data, (0, num_rows * step - data.size))
    rows = data[: num_rows * step].reshape(num_rows, step)[:, :row_bytes]
    pixels = np.ascontiguousarray(rows).view(dtype.newbyteorder(">" if msg.is_bigendian else "<"))
    shape = (num_rows, width) if channels == 1 else (num_rows, width, channels)
    return pixels.reshape(shape).astype(dtype, copy=not rows.flags.owndata)


def to_rgb(array: NDArray, encoding: str) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB of an array as `image_to_array` gives it. 16-bit colours keep their upper 8 bits.

    `8UC3` and `8UC4` are read as BGR(A), as cv_bridge does. Depth and feature maps (16UC1, 32FC<n>, ...) are no colours: InputError.
    """
    if encoding == "rgb8":
        return np.ascontiguousarray(array)
    if encoding.startswith("bayer_") and encoding in _NAMED:
        code = _BAYER[encoding[6:10]]
    else:
        code = _TO_RGB.get(encoding, _TO_RGB.get(encoding.rstrip("0123456789"), -1))
        if encoding == "rgb16":
            return (array >> 8).astype(np.uint8)
        if code < 0:
            colours = [*_NAMED, "8UC1", "8UC3", "8UC4"]
            raise InputError(f"image encoding {encoding!r} is not a colour image; colour images are {', '.join(sorted(colours))}")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    try:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(array), code), np.uint8)
    except cv2.error as error:
        raise InputError(f"image of {array.shape[1]}x{array.shape[0]} in {encoding} cannot be converted: odd size? ({error.err})") from error


def compressed_image_to_array(msg: Any) -> NDArray:
    """Pixels of a CompressedImage message: (height, width, 3) uint8 RGB, or (height, width) uint16 or float32 for depth.

    Depth comes as 16-bit PNG or in the `compressedDepth` transport, whose 12 leading bytes hold the quantisation of inverse depth.
    """
    data = np.frombuffer(msg.data, np.uint8)
    is_depth_transport = "compressedDepth" in msg.format
    if is_depth_transport:
        header, data = data[:12], data[12:]
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"compressed image of format {msg.format!r} with {data.size} bytes cannot be decoded: truncated, or neither JPEG nor PNG")
    if is_depth_transport and msg.format.startswith("32FC1"):
        scale, offset = np.frombuffer(header.tobytes()[4:], "<f4")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(pixels == 0, np.float32(0), scale / (pixels.astype(np.float32) - offset)).astype(np.float32)
    if pixels.ndim == 2:
        return pixels if pixels.dtype == np.uint16 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.dtype == np.uint16:
        pixels = (np.asarray(pixels, np.uint16) >> 8).astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def message_to_rgb(msg: Any) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB of an Image or a CompressedImage message."""
    if hasattr(msg, "encoding"):
        return to_rgb(image_to_array(msg), msg.encoding)
    pixels = compressed_image_to_array(msg)
    if pixels.dtype != np.uint8:
        raise InputError(f"compressed image of format {msg.format!r} holds depth ({pixels.dtype}): a colour image is needed")
    return pixels


def depth_to_metres(array: NDArray) -> NDArray[np.float32]:
    """(height, width) float32 metres; 0 where unknown. 16-bit integers are millimetres (0 and 65535 invalid), floats are metres (REP 118)."""
    if array.ndim != 2 or array.dtype not in (np.uint16, np.float32, np.float64):
        raise InputError(f"depth image has shape {array.shape} and type {array.dtype}: must be (height, width) of 16-bit mm or 32-bit float m")
    if array.dtype == np.uint16:
        metres: NDArray[np.float32] = np.multiply(array, np.float32(0.001), dtype=np.float32)
        metres[array == INVALID_DEPTH_MM] = 0
        return metres
    return np.where(np.isfinite(array) & (array > 0), array, 0).astype(np.float32)


def message_to_depth(msg: Any) -> NDArray[np.float32]:
    """(height, width) float32 metres of a depth Image (16UC1, mono16, 32FC1) or CompressedImage; 0 where unknown."""
    return depth_to_metres(image_to_array(msg) if hasattr(msg, "encoding") else compressed_image_to_array(msg))


def camera_from_info(msg: Any) -> Camera:
    """The camera of a CameraInfo message, for the image it was published with: binning and region of interest are taken off.

    Raises InputError for an uncalibrated camera (zero or NaN intrinsics), zero size or an unknown distortion model.
    """
    matrix = np.asarray(msg.k, float).reshape(3, 3)
    if msg.distortion_model not in _DISTORTION_NAMES:
        raise InputError(f"distortion model {msg.distortion_model!r} is not handled; handled: {', '.join(sorted(filter(None, _DISTORTION_NAMES)))}")
    coefficients = tuple(float(value) for value in msg.d)
    model: Any = _DISTORTION_NAMES[msg.distortion_model] if any(coefficients) else "none"
    full = Camera.from_matrix(matrix, int(msg.width), int(msg.height), distortion_model=model, distortion=coefficients if any(coefficients) else ())
    region, width, height = msg.roi, full.width, full.height
    cx, cy = full.cx, full.cy
    if region.width and region.height:
        width, height, cx, cy = int(region.width), int(region.height), cx - region.x_offset, cy - region.y_offset
    cropped = Camera(width, height, full.fx, full.fy, cx, cy, full.distortion_model, full.distortion)
    binning_x, binning_y = max(1, int(msg.binning_x)), max(1, int(msg.binning_y))
    return cropped if binning_x == binning_y == 1 else cropped.resized(width // binning_x, height // binning_y)
