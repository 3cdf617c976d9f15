import os
import pickle
import pickletools

import numpy as np
import pytest
from tests.support.closeness import assert_close
from tests.support.miniatures.scene import miniature_scene
from tests.support.miniatures.tapvid import VIDEO, tapvid_video, write_tapvid_davis

from perception.core.errors import InputError
from perception_training.data.layouts.restricted_pickle import read_array_pickle
from perception_training.data.readers import open_dataset
from perception_training.data.readers.tapvid_davis import strided_queries

NUM_FRAMES = 7


def scene():
    return miniature_scene(NUM_FRAMES, 120, 90)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tapvid_davis(tmp_path_factory.mktemp("tapvid"), scene()).parent


def test_tracks_are_the_projections_of_the_scene_and_queried_where_first_seen(root):
    truth = scene()
    dataset = open_dataset("tapvid_davis", root)
    assert dataset.sequence_names == (VIDEO, "camel")
    sample = dataset[0].load(range(NUM_FRAMES))
    np.testing.assert_array_equal(np.stack(sample.images), np.stack(truth.images))
    assert sample.tracks.num_points == len(truth.points_world)  # the point that is never seen has no query
    assert np.abs(sample.tracks.points_px - truth.points_px).max() < 1e-3
    np.testing.assert_array_equal(sample.tracks.visible, truth.visible)
    np.testing.assert_array_equal(sample.tracks.query_frames, truth.visible.argmax(axis=0))


def test_strided_queries_repeat_a_point_in_every_fifth_frame_that_shows_it(root):
    truth = scene()
    tracks = open_dataset("tapvid_davis", root, {"queries": "strided"})[0].load(range(NUM_FRAMES)).tracks
    expected = [(point, frame) for frame in (0, 5) for point in np.flatnonzero(truth.visible[frame])]
    assert [(int(name), int(frame)) for name, frame in zip(tracks.names, tracks.query_frames, strict=True)] == expected
    assert len(set(tracks.names)) < len(tracks.names)
    for row, (point, _) in enumerate(expected):
        assert_close(tracks.points_px[:, row], truth.points_px[:, point].astype(np.float32), atol=1e-3)


def test_strided_queries_count_frames_from_zero():
    visible = np.array([[False, True, True, True, True, True, True], [True, False, True, True, True, False, False]])
    rows, frames = strided_queries(visible, 3)
    assert list(zip(rows.tolist(), frames.tolist(), strict=True)) == [(1, 0), (0, 3), (1, 3), (0, 6)]


def test_a_part_of_a_video_keeps_its_queries(root):
    sample = open_dataset("tapvid_davis", root)[0].load((3, 0))
    assert set(sample.tracks.query_frames.tolist()) <= {1, -1, 0}
    assert (sample.tracks.query_frames == 1).any()


def test_the_pickle_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = write_tapvid_davis(tmp_path, scene())
    open_dataset("tapvid_davis", path, {"cache": str(tmp_path / "cache")})
    with monkeypatch.context() as patched:
        patched.setattr("perception_training.data.layouts.tapvid_pickle.read_array_pickle", None)
        sample = open_dataset("tapvid_davis", path, {"cache": str(tmp_path / "cache")})[0].load((2,))
        np.testing.assert_array_equal(sample.images[0], scene().images[2])
    assert not path.with_name("tapvid_davis.pkl.unpacked").exists()
    path.write_bytes(pickle.dumps({"other": tapvid_video(miniature_scene(3, 120, 90))}))
    os.utime(path, ns=(1, 1))
    changed = open_dataset("tapvid_davis", path, {"cache": str(tmp_path / "cache")})
    assert changed.sequence_names == ("other",)
    assert len(changed[0]) == 3
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cache", "tapvid_davis.pkl"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read(tmp_path, protocol):
    content = {
        "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        "swapped": np.arange(3, dtype=">f8"),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 2)),
        "scalar": np.float64(2.5),
        "list": [1, "two", (3.0, None, True), b"four", b""],
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_array_pickle(path)
    assert list(found) == list(content)
    for name in ("plain", "columns", "axes", "swapped", "bool", "empty"):
        np.testing.assert_array_equal(found[name], content[name])
        assert found[name].shape == content[name].shape
        assert found[name].dtype == content[name].dtype
    assert found["scalar"] == 2.5
    assert found["list"] == content["list"]


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", ["os.system", "eval", "open", "numpy"])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path, function, protocol):
    trap = tmp_path / "trap"
    payload = {
        "os.system": Calls(os.system, f"touch {trap}"),
        "eval": Calls(eval, f"open({str(trap)!r}, 'w')"),
        "open": Calls(open, str(trap), "w"),
        "numpy": Calls(np.save, str(trap), 1),
    }[function]
    path = tmp_path / "tapvid_davis.pkl"
    path.write_bytes(pickle.dumps({VIDEO: tapvid_video(scene()) | {"note": payload}}, protocol))
    with pytest.raises(InputError, match=r"asks for .*; refused") as caught:
        open_dataset("tapvid_davis", tmp_path)
    assert str(path) in str(caught.value)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["tapvid_davis.pkl"]
    pickle.loads(path.read_bytes())  # the payload works where it is not refused
    assert any(item.name.startswith("trap") for item in tmp_path.iterdir())


def test_the_trap_of_a_protocol_4_pickle_is_a_global(tmp_path):
    names = {argument for opcode, argument, _ in pickletools.genops(pickle.dumps(Calls(os.system, "true"), 4)) if opcode.name == "SHORT_BINUNICODE"}
    assert "system" in names


@pytest.mark.parametrize("content", [np.array([None, {}], object), np.zeros(2, [("a", "f4")]), {1, 2}, 1 + 2j, np.array(["text"])])
def test_other_contents_are_refused(tmp_path, content):
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps({"content": content}))
    with pytest.raises(InputError, match=r"other\.pkl"):
        read_array_pickle(path)


def damaged(change):
    video = tapvid_video(scene())
    return pickle.dumps({VIDEO: video | change(video)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps({VIDEO: tapvid_video(scene())})[:5000],
        pickle.dumps({}),
        pickle.dumps(3),
        pickle.dumps({VIDEO: [1, 2]}),
        damaged(lambda video: {"points": video["points"][:, :-1]}),
        damaged(lambda video: {"points": video["points"][:0], "occluded": video["occluded"][:0]}),
        damaged(lambda video: {"video": video["video"][:0]}),
        damaged(lambda video: {"video": video["video"].astype(float)}),
        damaged(lambda video: {"occluded": video["occluded"].astype(int)}),
        damaged(lambda video: {"points": None}),
    ],
)
def test_a_damaged_pickle_is_named(tmp_path, content):
    path = tmp_path / "tapvid_davis.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tapvid_davis\.pkl"):
        open_dataset("tapvid_davis", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [1.2, np.nan])
def test_a_visible_point_outside_the_image_is_named_with_its_video(tmp_path, value):
    path = tmp_path / "tapvid_davis.pkl"
    video = tapvid_video(scene())
    video["points"][0, np.flatnonzero(~video["occluded"][0])[0], 0] = value
    path.write_bytes(pickle.dumps({VIDEO: video}))
    with pytest.raises(InputError, match=rf"tapvid_davis\.pkl, video '{VIDEO}': point 0 in frame"):
        open_dataset("tapvid_davis", tmp_path)[0].load((0,))


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(InputError, match=r"tapvid_davis\.pkl: cannot be read"):
        open_dataset("tapvid_davis", tmp_path)


def test_a_damaged_unpacked_copy_is_named(tmp_path):
    path = write_tapvid_davis(tmp_path, scene())
    dataset = open_dataset("tapvid_davis", tmp_path)
    part = path.with_name("tapvid_davis.pkl.unpacked") / "0000" / "video.npy"
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"0000/video\.npy: cannot be read"):
        dataset.open_sequence(VIDEO).load((0,))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    write_tapvid_davis(tmp_path, scene())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="option cache"):
        open_dataset("tapvid_davis", tmp_path, {"cache": str(tmp_path / "file" / "below")})
