"""`perception-train data check` walks a copy, counts what is there, and lists what is bad without stopping at it."""

import json
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.support.miniatures.bop import IMAGE_IDS, write_bop
from tests.support.miniatures.scene import miniature_scene

from perception.core.errors import InputError
from perception.io import images
from perception_training.cli.main import main
from perception_training.data import check
from perception_training.data.decoder_messages import decoder_complaints
from perception_training.data.readers import READERS, open_dataset
from perception_training.data.sample import ObjectTrack, Sample, Tracks
from perception_training.data.sequences import Dataset, FrameSequence

ALL = (0, 1, 2, 3)


@pytest.fixture
def copy(tmp_path):
    """Two scenes of four frames."""
    root = tmp_path / "set"
    write_bop(root, miniature_scene(), split="train_pbr", scene_id=0, suffix=".jpg", absent=(("ball", 0), ("box", 0)))
    write_bop(root, miniature_scene())
    return root


def run(*words):
    return main(["data", "check", *map(str, words)])


def damage(root):
    """Truncate one image and one depth image, and remove one mask; their paths."""
    scene = root / "test" / "000048"
    truncated = [scene / "rgb" / f"{IMAGE_IDS[1]:06d}.png", scene / "depth" / f"{IMAGE_IDS[2]:06d}.png"]
    for path in truncated:
        path.write_bytes(path.read_bytes()[:2000])
    missing = scene / "mask_visib" / f"{IMAGE_IDS[3]:06d}_000000.png"
    missing.unlink()
    return [*truncated, missing]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_good_copy_is_counted_and_is_clean(copy, tmp_path, num_workers, capfd):
    scene = miniature_scene()
    assert run("bop", copy, "--num-workers", num_workers, "--json", tmp_path / "out" / "report.json") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["sequences"] == {"in_copy": 2, "checked": 2}
    assert report["frames"] == {"good": 8, "bad": 0}
    assert report["image_sizes"] == {"160x120": 8}
    assert report["problems"] == []
    shares = report["share_of_frames_with"]
    assert shares == {**dict.fromkeys(check.FIELDS, 0.0), "intrinsics": 1.0, "pose": 1.0, "depth": 1.0, "masks": 1.0, "objects": 7 / 8}
    known = np.concatenate([depth[depth > 0] for depth in scene.depth_m])
    np.testing.assert_allclose(report["depth_range"], [known.min(), known.max()], atol=1e-4)
    np.testing.assert_allclose(report["known_depth_share"], np.mean([(depth > 0).mean() for depth in scene.depth_m]), atol=1e-6)
    assert report["objects"] == ["obj_000002", "obj_000007"]
    out = capfd.readouterr().out
    assert "8 loaded, 0 bad" in out
    assert "87.5 %" in out


def test_a_path_with_brackets_is_printed_as_it_is(copy, tmp_path, capfd):
    odd = copy.rename(tmp_path / "my [bold] set")
    damage(odd)
    assert run("bop", odd, "--num-workers", 0) == 1
    assert capfd.readouterr().out.count("my [bold] set/test/000048/") == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_bad_file_is_listed_and_the_others_are_still_counted(copy, tmp_path, num_workers, capfd):
    bad = damage(copy)
    words = ("bop", copy, "--num-workers", num_workers, "--json", tmp_path / "report.json", "--num-problems", 2)
    assert run(*words) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames"] == {"good": 5, "bad": 3}
    assert [problem["frame"] for problem in report["problems"]] == [f"{image_id:06d}" for image_id in IMAGE_IDS[1:]]
    for path, problem in zip(bad, report["problems"], strict=True):
        assert problem["sequence"] == "test/000048"
        assert str(path) in problem["message"]
    out = capfd.readouterr().out
    assert str(bad[0]) in out
    assert str(bad[1]) in out
    assert str(bad[2]) not in out
    assert "1 more" in out
    assert run(*words, "--skip-bad") == 0
    assert str(bad[0]) in capfd.readouterr().out


def test_a_sequence_that_cannot_be_opened_is_one_problem(copy, tmp_path):
    path = copy / "test" / "000048" / "scene_camera.json"
    path.write_text("{")
    assert run("bop", copy, "--num-workers", 0, "--json", tmp_path / "report.json") == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames"] == {"good": 4, "bad": 0}
    [problem] = report["problems"]
    assert (problem["sequence"], problem["frame"]) == ("test/000048", "")
    assert str(path) in problem["message"]


def test_options_of_the_reader_are_flags(copy, capfd):
    assert run("bop", copy, "--split", "test", "--targets-only", "--num-workers", 0) == 0
    assert "2 loaded, 0 bad" in capfd.readouterr().out
    assert run("bop", copy, "--split", "val") == 2
    assert f"{copy / 'val'}: no such split" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        run("bop", copy, "--keyframes-only")


def test_few_sequences_and_frames_are_spread_evenly(copy, tmp_path):
    for number in range(1, 5):
        write_bop(copy, miniature_scene(), scene_id=number)
    dataset = open_dataset("bop", copy)
    loaded = []
    original = check._Walker._walk_frame
    with pytest.MonkeyPatch.context() as patch:

        def walk(self, sequence, frame, result):
            loaded.append((sequence.name, frame))
            original(self, sequence, frame, result)

        patch.setattr(check._Walker, "_walk_frame", walk)
        report = check.check_dataset(dataset, max_sequences=3, frames_per_sequence=2)
    assert (report.num_sequences, report.num_checked) == (6, 3)
    assert loaded == [(name, frame) for name in ("test/000001", "test/000003", "train_pbr/000000") for frame in (0, 3)]


def test_progress_counts_frames(copy):
    seen = []
    check.check_dataset(open_dataset("bop", copy), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 8), (4, 8), (8, 8)]


def test_the_preview_shows_good_frames(copy, tmp_path):
    damage(copy)
    assert run("bop", copy, "--num-workers", 0, "--preview", tmp_path / "preview.png", "--skip-bad") == 0
    sheet = images.read_image(tmp_path / "preview.png")
    assert sheet.shape[1] == 4 * 196 - 4  # the second scene has four good frames
    assert sheet.std() > 20


def test_an_unknown_data_set_lists_the_known_ones_with_what_they_are(capfd):
    assert run("nothing", "/tmp") == 2
    error = capfd.readouterr().err
    assert "'nothing' is unknown" in error
    assert all(name in error for name in READERS)
    assert "Video files, with the tracks that lie beside them" in error


def test_a_folder_that_is_not_there_and_numbers_below_zero_are_errors(tmp_path, capfd):
    assert run("bop", tmp_path / "nowhere") == 2
    assert "nowhere: no such file or folder" in capfd.readouterr().err
    assert run("bop", tmp_path, "--max-sequences", -1) == 2
    assert "--max-sequences -1: must not be negative" in capfd.readouterr().err


def test_damage_that_the_decoder_conceals_is_found(copy, tmp_path):
    path = copy / "train_pbr" / "000000" / "rgb" / f"{IMAGE_IDS[0]:06d}.jpg"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    path.write_bytes(data)
    images.read_image(path)  # no error: most of the picture is there
    report = check.check_dataset(open_dataset("bop", copy))
    [problem] = report.problems
    assert problem.message.startswith(f"{path}: the decoder conceals damage: Corrupt JPEG data")
    assert report.num_bad_frames == 1


def test_other_words_on_the_error_output_are_passed_on(capfd):
    with decoder_complaints() as found:
        os.write(2, b"hello\n[h264 @ 0x55] error while decoding MB 3 4\n")
    assert found == ["error while decoding MB 3 4"]
    assert capfd.readouterr().err == "hello\n"


@dataclass
class OneSequence(FrameSequence):
    """Frames that a test makes up; an exception is raised instead of returned."""

    frames: list
    dataset: str = "fake"
    name: str = "one"

    @property
    def frame_names(self):
        return tuple(map(str, range(len(self.frames))))

    @property
    def world_from_camera(self):
        return None

    def load(self, frames):
        found = self.frames[frames[0]]
        if isinstance(found, Exception):
            raise found
        return found


class FakeDataset(Dataset):
    """Made up."""

    name = "fake"
    sequence: OneSequence

    def _list_sequences(self):
        return ("one",)

    def open_sequence(self, name):
        return self.sequence


@pytest.fixture
def fake(monkeypatch, tmp_path):
    def checked(*frames):
        monkeypatch.setattr(FakeDataset, "sequence", OneSequence(list(frames)), raising=False)
        return check.check_dataset(FakeDataset(tmp_path))

    return checked


def plain(**fields):
    return Sample("fake", "one", ("0",), (np.zeros((4, 5, 3), np.uint8),), **fields)


def test_what_cannot_be_true_is_a_problem(fake):
    bent = np.eye(4)[None] * 1.1
    depth = np.full((4, 5), -1.0, np.float32)
    lost = Tracks(np.full((1, 2, 2), np.nan, np.float32), np.array([[True, False]]))
    report = fake(plain(), plain(objects=(ObjectTrack("cup", bent),)), plain(depth_m=(depth,)), plain(tracks=lost))
    assert [problem.frame for problem in report.problems] == ["1", "2", "3"]
    for problem, words in zip(
        report.problems, ("object cup: pose is no rigid motion", "20 pixels have negative depth", "1 track points"), strict=True
    ):
        assert words in problem.message
        assert f"fake/one/{problem.frame}" in problem.message
    assert report.good_frames == {"one": [0]}
    assert report.num_bad_frames == 3


def test_tracks_text_times_and_masks_are_counted_where_they_are(fake):
    tracks = Tracks(np.zeros((1, 7, 2), np.float32), np.ones((1, 7), bool))
    masks = (np.zeros((4, 5), np.int32),)
    report = fake(
        plain(tracks=tracks, text="a cup"),
        plain(tracks=replace(tracks, visible=np.zeros((1, 7), bool)), times_s=np.zeros(1)),
        plain(masks=masks),
        plain(masks=masks, mask_known=np.array([False])),
    )
    assert not report.problems
    assert {name: report.share(name) for name in ("tracks", "text", "times", "masks")} == dict.fromkeys(("tracks", "text", "times", "masks"), 0.25)
    assert report.counts.max_points == 7


def test_errors_that_a_reader_should_not_let_through_are_problems_too(fake):
    report = fake(KeyError("width"), InputError("a.png: truncated"), plain())
    assert [problem.message for problem in report.problems] == ["unexpected KeyError of the reader: 'width'", "a.png: truncated"]
    assert report.counts.num_frames == 1


class DeadlyDataset(FakeDataset):
    """Whoever opens its sequence dies."""

    def open_sequence(self, name):
        os._exit(9)


def test_a_worker_that_is_killed_ends_the_walk_with_advice(tmp_path):
    with pytest.raises(InputError, match="--num-workers 0"):
        check.check_dataset(DeadlyDataset(tmp_path), num_workers=1)
