import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.support.closeness import DATA, assert_close
from tests.support.textured_plane import random_texture

from perception.core.errors import InputError
from perception.io import images
from perception.io.videos import VideoReader, VideoWriter


def smooth(index, height=48, width=64):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([4 * rows + index, 3 * columns, np.full_like(rows, 128 + 5 * index)], axis=-1).astype(np.uint8)


def test_images_round_trip_and_natural_order(tmp_path):
    for index in (10, 9, 100):
        images.write_image(tmp_path / f"view{index}.png", smooth(index))
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images.list_images(tmp_path)] == ["view9.png", "view10.png", "view100.png"]
    np.testing.assert_array_equal(images.read_image(tmp_path / "view9.png"), smooth(9))
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    images.write_image(tmp_path / "depth.png", depth)
    np.testing.assert_array_equal(images.read_depth_image(tmp_path / "depth.png"), depth)


def test_image_errors_name_the_file(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no jpeg")
    (tmp_path / "none.png").write_bytes(b"")
    for name in ("bad.jpg", "none.png", "missing.png"):
        with pytest.raises(InputError, match=name):
            images.read_image(tmp_path / name)
    with pytest.raises(InputError, match="no such folder"):
        images.list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        images.list_images(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be written"):
        images.write_image(tmp_path / "view.unknown", smooth(0))
    images.write_image(tmp_path / "colour.png", smooth(0))
    with pytest.raises(InputError, match="16-bit"):
        images.read_depth_image(tmp_path / "colour.png")


TEXTURE = random_texture(3, 96)


def jpeg_with_thumbnail(image):
    """A JPEG whose APP1 segment holds a whole JPEG, as cameras write it."""
    whole, thumbnail = (cv2.imencode(".jpg", pixels)[1].tobytes() for pixels in (image, image[::8, ::8]))
    segment = b"Exif\0\0" + thumbnail
    return whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + whole[2:]


ENCODED = {
    "baseline.jpg": cv2.imencode(".jpg", TEXTURE)[1].tobytes(),
    "progressive.jpg": cv2.imencode(".jpg", TEXTURE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    "thumbnail.jpg": jpeg_with_thumbnail(TEXTURE),
    "colour.png": cv2.imencode(".png", TEXTURE)[1].tobytes(),
    "depth.png": cv2.imencode(".png", TEXTURE[..., 0].astype(np.uint16) * 257)[1].tobytes(),
    "colour.webp": cv2.imencode(".webp", TEXTURE)[1].tobytes(),
    "colour.tif": cv2.imencode(".tif", TEXTURE)[1].tobytes(),
    "colour.bmp": cv2.imencode(".bmp", TEXTURE)[1].tobytes(),
}


@pytest.mark.parametrize("name", ENCODED)
def test_an_image_cut_off_anywhere_is_reported(tmp_path, name):
    read = images.read_depth_image if name == "depth.png" else images.read_image
    whole, path = ENCODED[name], tmp_path / name
    path.write_bytes(whole)
    pixels = read(path)
    for length in [*(round(share * len(whole)) for share in (0.05, 0.3, 0.6, 0.9)), len(whole) - 2]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=name):
            read(path)
    if name.endswith(("jpg", "png")):
        path.write_bytes(whole + bytes(64))  # what follows the end marker does not count
        np.testing.assert_array_equal(read(path), pixels)
        path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
        with pytest.raises(InputError, match=name):
            read(path)


def test_end_markers_are_looked_for_where_they_belong():
    # The decoder of this OpenCV refuses truncated files by itself; others do not.
    for name in ("baseline.jpg", "thumbnail.jpg", "depth.png"):
        whole = np.frombuffer(ENCODED[name], np.uint8)
        assert images._is_complete(whole)
        assert images._is_complete(np.pad(whole, (0, 40)))
        assert not any(images._is_complete(whole[:length]) for length in (12, 30, len(whole) // 2, len(whole) - 1))


def test_a_damaged_png_is_reported(tmp_path):
    for name in ("colour.png", "depth.png"):
        data = bytearray(ENCODED[name])
        data[len(data) // 2] ^= 0xFF
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            (images.read_depth_image if name == "depth.png" else images.read_image)(tmp_path / name)


def grey_png(labels, bits):
    """A grey PNG of fewer than 8 bits, which neither OpenCV nor Pillow writes: rows packed from the highest bit on, each after a filter byte 0."""
    planes = (labels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(planes.reshape(len(labels), -1), axis=1)
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())), (b"IEND", b"")]
    coded = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, "palette"])
def test_labels_are_read_as_stored(tmp_path, bits):
    labels = np.arange(60).reshape(6, 10) % (2 if bits == 1 else 4 if bits == 2 else 16)
    path = tmp_path / "labels.png"
    if bits in ("palette", 16, 8):
        image = Image.fromarray(labels.astype(np.uint16 if bits == 16 else np.uint8))
        if bits == "palette":
            image.putpalette([(37 * index + 5) % 256 for index in range(768)])
        image.save(path)
    else:
        path.write_bytes(grey_png(labels, bits))
    read = images.read_label_image(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"labels\.png"):
        images.read_label_image(path)


def test_colours_are_no_labels(tmp_path):
    images.write_image(tmp_path / "colour.png", smooth(0))
    with pytest.raises(InputError, match=r"colour\.png .* one channel"):
        images.read_label_image(tmp_path / "colour.png")


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_video_round_trip(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    with VideoWriter(path, rate_hz=20.0) as writer:
        for index in range(7):
            writer.write(smooth(index))
    reader = VideoReader(path)
    assert (reader.width, reader.height, len(reader)) == (64, 48, 7)
    frames = list(reader)
    assert len(frames) == 7
    assert_close([frame.time_ns / 1e9 for frame in frames], np.arange(7) / 20.0, atol=1e-3)
    for index, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - smooth(index)).mean() < 6  # lossy codec, but neither swapped channels nor shifted frames
    assert len(list(reader)) == 7


def test_video_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        VideoReader(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4"):
        VideoReader(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="can be written as"):
        VideoWriter(tmp_path / "clip.txt")
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        writer.write(smooth(0))
        with pytest.raises(InputError, match="64x48"):
            writer.write(smooth(0, 20, 20))
    whole = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match=r"cut\.mp4"):
        VideoReader(tmp_path / "cut.mp4")


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "video" / "apple.mp4").is_file(), reason="apple.mp4 is not there")
def test_real_video():
    frames = list(VideoReader(DATA / "video" / "apple.mp4"))
    assert len(frames) == 50
    assert all(np.diff([frame.time_ns for frame in frames]) == 100_000_000)
