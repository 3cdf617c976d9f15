import pickle
import shutil

import numpy as np
import pytest
from tests.support.miniatures.videos import number_of, numbered_picture, write_numbered_video

from perception.core.errors import InputError
from perception.io import images
from perception_training.data.readers import open_dataset
from perception_training.data.sample import Tracks
from perception_training.data.tracks_file import TracksProvenance, tracks_path, write_tracks_file


def write_tracks(video, num_frames):
    points = np.random.default_rng(0).uniform(0, 90, (num_frames, 5, 2)).astype(np.float32)
    tracks = Tracks(points, points[..., 0] > 20, query_frames=np.zeros(5, np.int64))
    write_tracks_file(tracks_path(video), tracks, TracksProvenance("test", {}, 128, 96, num_frames, ""))
    return tracks


def test_every_file_of_a_tree_is_a_sequence(tmp_path):
    write_numbered_video(tmp_path / "b" / "second.avi", 12, "MJPG")
    write_numbered_video(tmp_path / "first.MP4", 9)
    (tmp_path / "readme.txt").write_text("no video")
    dataset = open_dataset("videos", tmp_path)
    assert dataset.sequence_names == ("b/second.avi", "first.MP4")
    assert [len(sequence) for sequence in (dataset[0], dataset[1])] == [12, 9]
    assert open_dataset("videos", tmp_path / "first.MP4").sequence_names == ("first.MP4",)


def test_frames_and_times_are_those_of_the_indices(tmp_path):
    write_numbered_video(tmp_path / "clip.mp4", 200, rate_hz=20.0)
    sequence = open_dataset("videos", tmp_path)[0]
    for frames in ([150, 3, 199, 3], [20, 18, 16, 14]):
        sample = sequence.load(frames)
        assert [number_of(image) for image in sample.images] == frames
        assert sample.frame_names == tuple(f"{frame:06d}" for frame in frames)
        np.testing.assert_allclose(sample.times_s, np.array(frames) / 20, atol=1e-3)
    assert sample.world_from_camera is None
    assert sample.tracks is None


def test_a_sequence_can_be_sent_to_a_worker(tmp_path):
    write_numbered_video(tmp_path / "clip.mp4", 30)
    sequence = open_dataset("videos", tmp_path)[0]
    sequence.load([20])
    assert number_of(pickle.loads(pickle.dumps(sequence)).load([11]).images[0]) == 11


def test_tracks_beside_a_video_follow_its_frames(tmp_path):
    path = write_numbered_video(tmp_path / "clip.mp4", 30)
    tracks = write_tracks(path, 30)
    sample = open_dataset("videos", tmp_path)[0].load([12, 4])
    np.testing.assert_array_equal(sample.tracks.points_px, tracks.points_px[[12, 4]])
    np.testing.assert_array_equal(sample.tracks.visible, tracks.visible[[12, 4]])


def test_tracks_of_another_video_or_damaged_ones_are_named(tmp_path):
    path = write_numbered_video(tmp_path / "clip.mp4", 30)
    write_tracks(path, 29)
    with pytest.raises(InputError, match=r"clip\.mp4\.tracks\.npz: go through 29 frames, their video has 30"):
        open_dataset("videos", tmp_path)[0].load([0])
    tracks_path(path).write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"clip\.mp4\.tracks\.npz: damaged"):
        open_dataset("videos", tmp_path)[0].load([0])


def test_bad_videos_are_named(tmp_path):
    path = write_numbered_video(tmp_path / "clip.mp4", 30)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a video"):
        path.write_bytes(damaged)
        dataset = open_dataset("videos", tmp_path)
        with pytest.raises(InputError, match=r"clip\.mp4"):
            dataset[0].load([0])
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"videos/clip\.mp4: frame 30 is not there"):
        open_dataset("videos", tmp_path)[0].load([30])
    path.unlink()
    with pytest.raises(InputError, match="holds no sequences"):
        open_dataset("videos", tmp_path)


def test_every_folder_with_images_is_a_sequence_in_natural_order(tmp_path):
    for folder, numbers in (("a", (10, 9, 100)), ("b/deep", (1, 2))):
        for number in numbers:
            images.write_image(tmp_path / folder / f"frame{number}.png", numbered_picture(number))
    (tmp_path / "b" / "notes.txt").write_text("nothing")
    dataset = open_dataset("image_folders", tmp_path)
    assert dataset.sequence_names == ("a", "b/deep")
    sample = dataset[0].load([2, 0])
    assert sample.frame_names == ("frame100.png", "frame9.png")
    assert [number_of(image) for image in sample.images] == [100, 9]
    assert sample.times_s is None
    timed = open_dataset("image_folders", tmp_path, {"rate_hz": 4.0})[0].load([2, 0])
    np.testing.assert_allclose(timed.times_s, [0.5, 0.0])


def test_a_folder_of_images_is_a_sequence_itself(tmp_path):
    folder = tmp_path / "walk"
    images.write_image(folder / "0.jpg", numbered_picture(0))
    images.write_image(folder / "1.jpg", numbered_picture(1))
    tracks = write_tracks(folder, 2)
    (folder / "again").symlink_to(folder)  # must not be followed for ever
    dataset = open_dataset("image_folders", folder)
    assert dataset.sequence_names == ("walk",)
    sample = dataset[0].load([1])
    assert number_of(sample.images[0]) == 1
    np.testing.assert_array_equal(sample.tracks.points_px, tracks.points_px[1:])


def test_bad_images_of_a_folder_are_named(tmp_path):
    path = tmp_path / "a" / "0.jpg"
    images.write_image(path, numbered_picture(0))
    sequence = open_dataset("image_folders", tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a/0\.jpg: truncated"):
        sequence.load([0])
    path.unlink()
    with pytest.raises(InputError, match=r"a/0\.jpg: cannot be read"):
        sequence.load([0])
    shutil.rmtree(path.parent)
    with pytest.raises(InputError, match="holds no sequences"):
        open_dataset("image_folders", tmp_path)
