from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.io import ros_images


def image_message(array, encoding, padding=0, is_bigendian=False, **override):
    """An Image message of an array: what a driver with padded rows and its own byte order sends."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder(">" if is_bigendian else "<"))
    rows = array.view(np.uint8).reshape(array.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=201)
    fields = dict(height=array.shape[0], width=array.shape[1], encoding=encoding, is_bigendian=is_bigendian, step=padded.shape[1])
    return SimpleNamespace(**{**fields, "data": padded.tobytes(), **override})


def camera_info(**override):
    region = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    fields = dict(width=640, height=480, k=[500.0, 0, 320, 0, 510, 240, 0, 0, 1], d=[0.0] * 5, distortion_model="plumb_bob")
    return SimpleNamespace(**{**fields, "binning_x": 0, "binning_y": 0, "roi": region, **override})


DTYPES = {
    "8UC3": "u1",
    "16UC1": "u2",
    "16SC2": "i2",
    "32SC1": "i4",
    "32FC1": "f4",
    "32FC7": "f4",
    "64FC2": "f8",
    "mono16": "u2",
    "rgb8": "u1",
    "bgra8": "u1",
}


@pytest.mark.parametrize("is_bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", DTYPES)
def test_pixels_survive_padding_and_byte_order(encoding, padding, is_bigendian, rng):
    channels = {"rgb8": 3, "bgra8": 4, "mono16": 1}.get(encoding) or int(encoding.split("C")[1])
    array = (rng.random((4, 6, channels)) * 200).astype(DTYPES[encoding]).squeeze()
    result = ros_images.image_to_array(image_message(array, encoding, padding, is_bigendian))
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_last_row_may_lack_its_padding(rng):
    array = rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)
    message = image_message(array, "rgb8", padding=7)
    message.data = message.data[:-7]
    np.testing.assert_array_equal(ros_images.image_to_array(message), array)


RGB = np.array([[[200, 30, 90]]], np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", [200, 30, 90]),
        ("bgr8", [90, 30, 200]),
        ("rgba8", [200, 30, 90, 7]),
        ("bgra8", [90, 30, 200, 7]),
        ("8UC3", [90, 30, 200]),
        ("8UC4", [90, 30, 200, 7]),
        ("rgb16", [200 * 257, 30 * 257, 90 * 257]),
        ("bgr16", [90 * 257, 30 * 257, 200 * 257]),
    ],
)
def test_colours_reach_rgb(encoding, pixel):
    array = np.tile(np.array(pixel, np.uint16 if encoding.endswith("16") else np.uint8), (2, 4, 1))
    result = ros_images.message_to_rgb(image_message(array, encoding))
    np.testing.assert_array_equal(result, np.tile(RGB, (2, 4, 1)))


@pytest.mark.parametrize(("encoding", "value"), [("mono8", 77), ("8UC1", 77), ("mono16", 77 * 256 + 3)])
def test_grey_reaches_rgb(encoding, value):
    array = np.full((3, 5), value, np.uint16 if encoding == "mono16" else np.uint8)
    np.testing.assert_array_equal(ros_images.message_to_rgb(image_message(array, encoding)), np.full((3, 5, 3), 77))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_of_one_colour_gives_that_colour(pattern, bits):
    channel = {"r": 0, "g": 1, "b": 2}
    mosaic = np.array([[RGB[0, 0, channel[letter]] for letter in pattern[:2]], [RGB[0, 0, channel[letter]] for letter in pattern[2:]]], np.uint16)
    array = (np.tile(mosaic, (6, 6)) * (257 if bits == 16 else 1)).astype(np.uint16 if bits == 16 else np.uint8)
    result = ros_images.message_to_rgb(image_message(array, f"bayer_{pattern}{bits}"))
    np.testing.assert_array_equal(result[2:-2, 2:-2], np.broadcast_to(RGB, (8, 8, 3)))


def yuv(rgb):
    """ITU-R BT.601 with studio swing, written out: what video4linux cameras send."""
    red, green, blue = (float(value) / 255 for value in rgb)
    y = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112.0 * blue
    v = 128 + 112.0 * red - 93.786 * green - 18.214 * blue
    return [round(value) for value in (y, u, v)]


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
def test_yuv_of_one_colour_gives_that_colour(encoding):
    y, u, v = yuv(RGB[0, 0])
    if encoding in ("yuv422", "uyvy"):
        message = image_message(np.tile(np.array([[u, y], [v, y]], np.uint8), (4, 3, 1)), encoding)
    elif encoding in ("yuv422_yuy2", "yuyv"):
        message = image_message(np.tile(np.array([[y, u], [y, v]], np.uint8), (4, 3, 1)), encoding)
    else:
        pair = [u, v] if encoding == "nv12" else [v, u]
        array = np.vstack([np.full((4, 6), y), np.tile(pair, (2, 3))]).astype(np.uint8)
        message = image_message(array, encoding, height=4)
    result = ros_images.message_to_rgb(message)
    assert result.shape == (4, 6, 3)
    assert_close(result.astype(float), np.broadcast_to(RGB, (4, 6, 3)).astype(float), atol=3.0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"encoding": "rgb9"}, ["'rgb9'", "bgr8", "32FC<n>"]),
        ({"encoding": "32FC0"}, ["32FC0"]),
        ({"step": 17}, ["step 17", "18 bytes"]),
        ({"data": b"\0" * 60}, ["60 bytes", "72"]),
        ({"data": b""}, ["0 bytes"]),
        ({"width": 0}, ["0x4"]),
        ({"height": 0}, ["6x0"]),
    ],
)
def test_bad_image_says_what_was_found(override, words, rng):
    message = image_message(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), "rgb8")
    vars(message).update(override)
    with pytest.raises(InputError) as caught:
        ros_images.image_to_array(message)
    assert all(word in str(caught.value) for word in words), caught.value


def test_depth_is_no_colour_image():
    with pytest.raises(InputError, match="not a colour image"):
        ros_images.message_to_rgb(image_message(np.zeros((2, 2), np.float32), "32FC1"))
    with pytest.raises(InputError, match="odd size"):
        ros_images.message_to_rgb(image_message(np.zeros((3, 5, 2), np.uint8), "yuv422"))


def test_depth_in_metres():
    millimetres = np.array([[0, 65535, 1500]], np.uint16)
    assert_close(ros_images.message_to_depth(image_message(millimetres, "16UC1")), np.array([[0, 0, 1.5]], np.float32))
    metres = np.array([[np.nan, np.inf, -1.0, 2.25]], np.float32)
    assert_close(ros_images.message_to_depth(image_message(metres, "32FC1")), np.array([[0, 0, 0, 2.25]], np.float32))
    with pytest.raises(InputError, match="depth image"):
        ros_images.message_to_depth(image_message(np.zeros((2, 2, 3), np.uint8), "rgb8"))


def compressed(array, codec, text):
    return SimpleNamespace(format=text, data=cv2.imencode(codec, array)[1].tobytes())


def test_compressed_colour_grey_and_depth(rng):
    rgb = rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ros_images.message_to_rgb(compressed(rgb[..., ::-1], ".png", "rgb8; png compressed bgr8")), rgb)
    np.testing.assert_array_equal(ros_images.message_to_rgb(compressed(rgb[..., 0], ".png", "mono8; png compressed")), np.repeat(rgb[..., :1], 3, 2))
    depth = rng.integers(0, 5000, (8, 9), dtype=np.uint16)
    np.testing.assert_array_equal(ros_images.compressed_image_to_array(compressed(depth, ".png", "16UC1; png compressed")), depth)
    with pytest.raises(InputError, match="holds depth"):
        ros_images.message_to_rgb(compressed(depth, ".png", "16UC1; png compressed"))


def test_compressed_depth_transport():
    depth_m = np.array([[0.5, 1.0, 4.0, 0.0]])
    scale, offset = 1000.0, -10.0
    quantised = np.where(depth_m > 0, np.rint(scale / np.maximum(depth_m, 1e-3) + offset), 0).astype(np.uint16)
    message = compressed(quantised, ".png", "32FC1; compressedDepth png")
    message.data = np.array([0], "<i4").tobytes() + np.array([scale, offset], "<f4").tobytes() + message.data
    assert_close(ros_images.message_to_depth(message), depth_m.astype(np.float32), rtol=1e-3)


@pytest.mark.parametrize("data", [b"", b"no picture at all", None])
def test_undecodable_compressed_image(data, rng):
    whole = compressed(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), ".png", "png")
    whole.data = whole.data[:60] if data is None else data
    with pytest.raises(InputError, match="cannot be decoded"):
        ros_images.message_to_rgb(whole)


def test_camera_from_info():
    camera = ros_images.camera_from_info(camera_info())
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.distortion_model, camera.distortion) == (500, 510, 320, 240, "none", ())
    bent = ros_images.camera_from_info(camera_info(d=[0.1, -0.2, 0.0, 0.0, 0.05]))
    assert (bent.distortion_model, bent.distortion) == ("plumb_bob", (0.1, -0.2, 0.0, 0.0, 0.05))


def test_region_of_interest_and_binning_are_taken_off():
    region = SimpleNamespace(x_offset=100, y_offset=40, width=320, height=200)
    camera = ros_images.camera_from_info(camera_info(roi=region, binning_x=2, binning_y=2))
    assert (camera.width, camera.height, camera.fx) == (160, 100, 250)
    assert (camera.cx, camera.cy) == ((220.5) / 2 - 0.5, (200.5) / 2 - 0.5)


@pytest.mark.parametrize(
    "override",
    [
        {"k": [0.0] * 9},
        {"k": [np.nan, 0, 320, 0, 510, 240, 0, 0, 1]},
        {"width": 0},
        {"distortion_model": "thin_prism"},
        {"d": [0.1, 0.2], "distortion_model": "plumb_bob"},
        {"d": [np.nan] * 5},
    ],
)
def test_unusable_camera_info(override):
    with pytest.raises(InputError):
        ros_images.camera_from_info(camera_info(**override))
