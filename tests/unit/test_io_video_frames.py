import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
from tests.support.closeness import DATA
from tests.support.miniatures.videos import cut_in_edit_list, number_of, write_numbered_video, write_uneven_video

from perception.core.errors import InputError
from perception.io import video_frames as module
from perception.io.mp4_timing import num_constant_rate_frames
from perception.io.video_frames import VideoFrames, read_video_frame, video_frames
from perception.io.videos import VideoReader

NUM = 300
FORMATS = [("mp4v", "mp4"), ("VP90", "mp4"), ("MJPG", "avi"), ("mp4v", "avi"), ("mp4v", "mkv"), ("VP80", "webm")]


@pytest.mark.parametrize(("codec", "suffix"), FORMATS)
def test_any_frames_in_any_order_are_the_right_ones(tmp_path, codec, suffix):
    video = VideoFrames(write_numbered_video(tmp_path / f"clip.{suffix}", NUM, codec))
    assert (video.num_frames, video.width, video.height) == (NUM, 128, 96)
    np.testing.assert_allclose(video.times_s, np.arange(NUM) / 25, atol=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(12):
        frames = rng.integers(0, NUM, 6).tolist()
        assert [number_of(image) for image in video.read(frames)] == frames
    assert [number_of(image) for image in video.read([7, 7, 5, NUM - 1, 0])] == [7, 7, 5, NUM - 1, 0]
    assert [number_of(image) for image in video.read(range(NUM))] == list(range(NUM))


def test_clips_do_not_decode_what_lies_before_them(tmp_path, monkeypatch):
    video = VideoFrames(write_numbered_video(tmp_path / "clip.mp4", NUM))
    advanced = []
    original = VideoFrames._advance
    monkeypatch.setattr(VideoFrames, "_advance", lambda self, capture, frame: (advanced.append(frame), original(self, capture, frame)))
    video.read([280, 284, 288])
    assert len(advanced) <= 9 + 1
    advanced.clear()
    video.read([0, 2])
    assert len(advanced) == 3


def test_frames_of_unequal_length_are_told_apart_by_their_times(tmp_path):
    path = write_uneven_video(tmp_path / "clip.mp4", NUM, 100, 7)
    assert num_constant_rate_frames(path) is None
    video = VideoFrames(path)
    assert video.num_frames == NUM
    np.testing.assert_allclose(np.diff(video.times_s)[99:102], [0.04, 0.32, 0.04], atol=1e-3)
    for frame in (250, 101, 99, 100, 140, 299, 107):
        assert number_of(video.read([frame])[0]) == frame


def test_frames_that_the_list_of_edits_cuts_off_are_not_there(tmp_path):
    path = write_numbered_video(tmp_path / "clip.mp4", NUM)
    cut_in_edit_list(path, 200, NUM)
    assert num_constant_rate_frames(path) is None
    video = VideoFrames(path)
    assert video.num_frames == 200
    assert [number_of(image) for image in video.read([199, 150])] == [199, 150]


def test_the_tables_of_an_even_video_say_so(tmp_path):
    assert num_constant_rate_frames(write_numbered_video(tmp_path / "clip.mp4", 30)) == 30
    (tmp_path / "text.mp4").write_text("no boxes here")
    assert num_constant_rate_frames(tmp_path / "text.mp4") is None
    assert num_constant_rate_frames(tmp_path / "none.mp4") is None


def test_a_seek_that_lands_on_an_unknown_frame_counts_from_the_start(tmp_path, monkeypatch):
    video = VideoFrames(write_numbered_video(tmp_path / "clip.mp4", NUM))
    monkeypatch.setattr(VideoFrames, "_landed", lambda self, frame: None)
    for frame in (200, 90, 250):
        assert number_of(video.read([frame])[0]) == frame


def test_a_video_without_time_stamps_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_time_s", lambda capture: 0.0)
    video = VideoFrames(write_numbered_video(tmp_path / "clip.avi", 60, "MJPG"))
    assert [number_of(image) for image in video.read([50, 3, 40])] == [50, 3, 40]
    np.testing.assert_allclose(video.times_s, np.arange(60) / 25)


def test_a_video_can_be_pickled_while_it_is_open(tmp_path):
    video = VideoFrames(write_numbered_video(tmp_path / "clip.mp4", 40))
    video.read([30])
    copy = pickle.loads(pickle.dumps(video))
    assert number_of(copy.read([12])[0]) == 12
    video.close()
    video.close()
    assert number_of(video.read([13])[0]) == 13


def _read_in_child(paths, held, queue):
    numbers = [number_of(read_video_frame(path, 33)) for path in paths]
    queue.put([*numbers, *(number_of(image) for image in held.read([34, 5]))])


def test_a_forked_worker_opens_the_files_itself(tmp_path):
    # More files than are kept open, so that the worker drops decoders that it inherited: their threads are not there to be joined.
    paths = [write_numbered_video(tmp_path / f"clip{number}.mp4", 60) for number in range(6)]
    held = VideoFrames(paths[0])
    held.read([30])
    for path in paths:
        read_video_frame(path, 30)
    parent = video_frames(paths[-1])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(paths, held, queue))
    child.start()
    assert queue.get(timeout=30) == [33] * 6 + [34, 5]
    child.join(timeout=30)
    assert child.exitcode == 0
    assert video_frames(paths[-1]) is parent
    assert [number_of(image) for image in parent.read([31, 32])] == [31, 32]
    assert number_of(held.read([31])[0]) == 31


def test_only_a_few_videos_stay_open(tmp_path):
    paths = [write_numbered_video(tmp_path / f"clip{number}.mp4", 4) for number in range(8)]
    assert [number_of(read_video_frame(path, 2)) for path in paths] == [2] * 8
    assert module._open_video.cache_info().currsize <= module._MAX_OPEN_VIDEOS


def test_errors_name_the_file_and_the_frame(tmp_path):
    with pytest.raises(InputError, match=r"none\.mp4: no such file"):
        VideoFrames(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4: cannot be opened"):
        VideoFrames(tmp_path / "text.mp4")
    path = write_numbered_video(tmp_path / "clip.avi", 60, "MJPG")
    with pytest.raises(InputError, match=r"clip\.avi: frame 60 is not there; must be in \[0, 60\)"):
        VideoFrames(path).read([60])
    with pytest.raises(InputError, match=r"frame -1 is not there"):
        VideoFrames(path).read([-1])


def test_a_file_cut_off_after_it_was_opened_is_reported(tmp_path):
    path = write_numbered_video(tmp_path / "clip.avi", NUM, "MJPG")
    video = VideoFrames(path)
    video.close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"clip\.avi: frame 290 of 300 cannot be decoded: it ends after \d+ frames"):
        video.read([290])
    assert number_of(video.read([20])[0]) == 20


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "video" / "apple.mp4").is_file(), reason="apple.mp4 is not there")
def test_frames_of_a_real_video_equal_those_read_one_after_the_other():
    path = DATA / "video" / "apple.mp4"
    wanted = [45, 3, 29, 30, 48]
    truth = {index: frame.image for index, frame in enumerate(VideoReader(path)) if index in wanted}
    video = VideoFrames(path)
    for frame, image in zip(wanted, video.read(wanted), strict=True):
        np.testing.assert_array_equal(image, truth[frame])
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == video.num_frames
