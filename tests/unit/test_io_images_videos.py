import numpy as np
import pytest
from tests.support.closeness import DATA, assert_close

from perception.core.errors import InputError
from perception.io import images
from perception.io.videos import VideoReader, VideoWriter


def smooth(index, height=48, width=64):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([4 * rows + index, 3 * columns, np.full_like(rows, 128 + 5 * index)], axis=-1).astype(np.uint8)


def test_images_round_trip_and_natural_order(tmp_path):
    for index in (10, 9, 100):
        images.write_image(tmp_path / f"view{index}.png", smooth(index))
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
