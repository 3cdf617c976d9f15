"""`perception-train tracks` from the command line, and the files that it writes."""

import dataclasses
import os

import cv2
import numpy as np
import pytest
import torch

from perception.core.errors import InputError
from perception.io.images import read_image, write_image
from perception.io.videos import VideoReader, VideoWriter
from perception.models.cotracker3 import OFFLINE, CoTracker3
from perception_training.cli.main import main
from perception_training.data.pseudo_labels import lucas_kanade
from perception_training.data.pseudo_labels.cotracker3 import CoTracker3Offline
from perception_training.data.pseudo_labels.videos import find_videos
from perception_training.data.sample import Tracks
from perception_training.data.tracks_file import TracksProvenance, read_tracks_file, read_tracks_provenance, tracks_path, write_tracks_file

PROVENANCE = TracksProvenance("lucas_kanade", {"grid_size": 4}, 64, 48, 6, "0" * 64)


def images(num_frames=6, seed=0, size=(64, 48)):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).uniform(0, 255, (120, 160, 3)).astype(np.float32), (0, 0), 2)
    texture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return [np.ascontiguousarray(texture[20 : 20 + size[1], 10 + 2 * frame : 10 + 2 * frame + size[0]]) for frame in range(num_frames)]


def write_video(path, **how):
    with VideoWriter(path) as writer:
        for image in images(**how):
            writer.write(image)
    return path


def write_folder(path, **how):
    for number, image in enumerate(images(**how)):
        write_image(path / f"frame{number}.png", image)
    return path


def track(*words):
    return main(["tracks", *map(str, words), "--grid-size", "4"])


def some_tracks():
    return Tracks(np.random.default_rng(0).normal(size=(6, 5, 2)).astype(np.float32), np.ones((6, 5), bool), query_frames=np.arange(5))


def test_a_video_gets_its_tracks_beside_it(tmp_path, capsys):
    video = write_video(tmp_path / "clip.avi")
    assert track(video) == 0
    tracks = read_tracks_file(tmp_path / "clip.avi.tracks.npz")
    assert tracks.points_px.shape == (6, 16, 2)
    seen = np.nanmedian(np.diff(tracks.points_px, axis=0), axis=(0, 1))
    np.testing.assert_allclose(seen, (-2, 0), atol=0.1)
    provenance = read_tracks_provenance(tracks_path(video))
    assert (provenance.tracker, provenance.width_px, provenance.height_px, provenance.num_frames) == ("lucas_kanade", 64, 48, 6)
    assert provenance.config["grid_size"] == 4
    assert provenance.config["window_px"] == 21
    assert "16 points through 6 frames" in capsys.readouterr().out


def test_a_folder_of_images_is_one_video(tmp_path):
    folder = write_folder(tmp_path / "clip")
    assert track(folder) == 0
    tracks = read_tracks_file(tmp_path / "clip.tracks.npz")
    shift = np.nanmedian(np.diff(tracks.points_px, axis=0), axis=(0, 1))
    np.testing.assert_allclose(shift, (-2, 0), atol=0.05)


def test_finished_videos_are_skipped_and_stale_ones_made_again(tmp_path, capsys):
    folder = write_folder(tmp_path / "clip")
    path = tracks_path(folder)
    assert track(folder) == 0
    first = path.stat().st_mtime_ns

    assert track(folder) == 0
    assert path.stat().st_mtime_ns == first
    assert "0 videos tracked, 1 were there" in capsys.readouterr().out

    assert track(folder, "--lucas-kanade.window-px", 15) == 0
    assert "config.window_px was 21, is 15" in capsys.readouterr().out.replace("\n", "")
    assert path.stat().st_mtime_ns != first

    write_image(folder / "frame5.png", images(seed=1)[5])
    assert track(folder, "--lucas-kanade.window-px", 15) == 0
    assert "the content has changed" in capsys.readouterr().out.replace("\n", "")

    path.write_bytes(path.read_bytes()[:-40])
    assert track(folder, "--lucas-kanade.window-px", 15) == 0
    assert "damaged" in capsys.readouterr().out
    assert read_tracks_file(path).num_points == 16


def test_a_run_that_is_interrupted_keeps_what_was_finished_and_leaves_no_pieces(tmp_path, monkeypatch, capsys):
    for name in ("a", "b", "c"):
        write_folder(tmp_path / "videos" / name)
    follow, calls = lucas_kanade.LucasKanade.track, []

    def interrupted(self, frames, queries, report):
        calls.append(len(frames))
        if len(calls) == 2:
            report(1, 2)
            raise KeyboardInterrupt
        return follow(self, frames, queries, report)

    monkeypatch.setattr(lucas_kanade.LucasKanade, "track", interrupted)
    assert track(tmp_path / "videos") == 130
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["a", "a.tracks.npz", "b", "c"]
    assert track(tmp_path / "videos") == 0
    assert len(calls) == 4
    assert "2 videos tracked, 1 were there" in capsys.readouterr().out


def test_bad_videos_stop_the_run_unless_they_are_to_be_skipped(tmp_path, capsys):
    write_folder(tmp_path / "a")
    bad = tmp_path / "a" / "frame3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    (tmp_path / "b.mp4").write_bytes(b"no video")
    write_folder(tmp_path / "c")

    assert track(tmp_path) == 2
    message = capsys.readouterr().err
    assert str(bad) in message
    assert "--skip-bad" in message
    assert not tracks_path(tmp_path / "c").exists()

    assert track(tmp_path, "--skip-bad") == 2
    captured = capsys.readouterr()
    assert str(bad) in captured.err
    assert "b.mp4" in captured.err
    assert "1 videos tracked, 0 were there, 2 bad" in captured.out
    assert read_tracks_file(tracks_path(tmp_path / "c")).num_points == 16
    assert not tracks_path(tmp_path / "a").exists()


def test_images_of_other_sizes_are_bad_input(tmp_path, capsys):
    folder = write_folder(tmp_path / "clip")
    write_image(folder / "frame4.png", images(size=(60, 48))[0])
    assert track(folder) == 2
    assert f"{folder / 'frame4.png'} is 60x48, others are 64x48" in capsys.readouterr().err


def test_tracks_go_into_another_folder_with_the_names_of_the_videos(tmp_path, capsys):
    write_folder(tmp_path / "in" / "day" / "one")
    write_video(tmp_path / "in" / "day" / "two.avi")
    assert track(tmp_path / "in", "--out", tmp_path / "out") == 0
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.npz")) == [
        "day/one.tracks.npz",
        "day/two.avi.tracks.npz",
    ]
    assert not list((tmp_path / "in").rglob("*.npz"))

    write_folder(tmp_path / "other" / "one")
    assert track(tmp_path / "in" / "day" / "one", tmp_path / "other" / "one", "--out", tmp_path / "out2") == 2
    assert "would both go to" in capsys.readouterr().err


def test_the_preview_shows_sheet_and_video_also_of_tracks_that_are_there(tmp_path):
    folder = write_folder(tmp_path / "clip")
    for _ in range(2):
        assert track(folder, "--preview", tmp_path / "pictures") == 0
        sheet = read_image(tmp_path / "pictures" / "clip.png")
        assert sheet.shape == (2 * 48, 3 * 64, 3)
        assert np.abs(sheet[:48, :64].astype(int) - images()[0]).max() > 100  # something is drawn
        assert len(list(VideoReader(tmp_path / "pictures" / "clip.mp4"))) == 6
        (tmp_path / "pictures" / "clip.png").unlink()


def test_queries_can_start_in_every_so_many_frames(tmp_path):
    folder = write_folder(tmp_path / "clip")
    assert track(folder, "--query-every", 3) == 0
    tracks = read_tracks_file(tracks_path(folder))
    assert tracks.query_frames.tolist() == [0] * 16 + [3] * 16
    assert tracks.visible[0, 16:].mean() > 0.5  # backwards as well


def test_cotracker_runs_from_a_checkpoint_and_other_weights_make_its_tracks_stale(tmp_path, monkeypatch, capsys):
    small = dataclasses.replace(
        OFFLINE,
        feature_dim=16,
        correlation_hidden_dim=8,
        correlation_dim=8,
        hidden_dim=16,
        num_heads=2,
        num_virtual_tracks=4,
        height_px=32,
        width_px=32,
    )
    monkeypatch.setattr(CoTracker3Offline, "architecture", small)
    folder = write_folder(tmp_path / "clip")
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(CoTracker3(small).state_dict(), tmp_path / "scaled_offline.pth")
        assert track(folder, "--tracker", "cotracker3_offline", "--weights", tmp_path / "scaled_offline.pth", "--cotracker3.device", "cpu") == 0
    assert "the weights has changed" in capsys.readouterr().out.replace("\n", "")
    assert read_tracks_provenance(tracks_path(folder)).config["min_visibility"] == 0.9
    assert "weights" not in read_tracks_provenance(tracks_path(folder)).config

    assert track(folder, "--tracker", "cotracker3_offline", "--weights", tmp_path / "absent.pth") == 2
    assert "absent.pth: no such file" in capsys.readouterr().err
    assert track(folder, "--weights", tmp_path / "scaled_offline.pth") == 2
    assert "lucas_kanade has none" in capsys.readouterr().err


def test_nothing_to_track_is_an_error(tmp_path, capsys):
    assert track(tmp_path) == 2
    assert "holds neither videos" in capsys.readouterr().err
    assert track(tmp_path / "absent.mp4") == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["tracks"]) == 2
    assert "no videos" in capsys.readouterr().err


def test_videos_are_found_below_folders_and_pictures_beside_them_are_none(tmp_path):
    write_folder(tmp_path / "b" / "clip", num_frames=1)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "cover.png").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.mp4").touch()
    assert find_videos(tmp_path) == [tmp_path / "a.mp4", tmp_path / "b" / "clip"]
    with pytest.raises(InputError, match=r"cover\.png: must be a folder, or a video"):
        find_videos(tmp_path / "cover.png")


def test_tracks_are_read_back_as_they_were_written(tmp_path):
    tracks = dataclasses.replace(some_tracks(), points_world=np.ones((6, 5, 3), np.float32), names=("a", "b", "c", "d", "é"))
    write_tracks_file(tmp_path / "x.tracks.npz", tracks, PROVENANCE)
    back = read_tracks_file(tmp_path / "x.tracks.npz")
    for name in ("points_px", "visible", "points_world", "query_frames"):
        assert np.array_equal(getattr(back, name), getattr(tracks, name))
    assert back.names == tracks.names
    assert read_tracks_provenance(tmp_path / "x.tracks.npz") == PROVENANCE
    assert [path.name for path in tmp_path.iterdir()] == ["x.tracks.npz"]


def test_files_that_are_cut_off_or_hold_something_else_are_refused_by_name(tmp_path):
    path = tmp_path / "x.tracks.npz"
    write_tracks_file(path, some_tracks(), PROVENANCE)
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"x\.tracks\.npz"):
            read_tracks_file(path)
    np.savez(path, points_px=np.array([{"a": 1}], object))
    with pytest.raises(InputError, match=r"x\.tracks\.npz: damaged"):
        read_tracks_file(path)
    np.savez(path, points_px=np.zeros((3, 2, 2), np.float32), visible=np.ones((3, 4), bool))
    with pytest.raises(InputError, match=r"x\.tracks\.npz: not a file of tracks"):
        read_tracks_file(path)
    with pytest.raises(InputError, match="does not say where it comes from"):
        read_tracks_provenance(path)
    with pytest.raises(InputError, match="no such file"):
        read_tracks_file(tmp_path / "absent")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.tracks.npz"
    write_tracks_file(path, some_tracks(), PROVENANCE)
    old = path.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written"):
        write_tracks_file(path, some_tracks(), PROVENANCE)
    assert path.read_bytes() == old
    assert [item.name for item in tmp_path.iterdir()] == ["x.tracks.npz"]
