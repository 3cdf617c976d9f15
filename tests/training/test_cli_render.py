"""`perception-train render`: what it writes, resumes, refuses and shows."""

import numpy as np
import pytest
from tests.support.textured_plane import random_texture

from perception.core.errors import InputError
from perception.io import images, meshes
from perception.rendering import primitives
from perception_training.cli.main import main
from perception_training.data.layouts.objaverse_renders import view_files
from perception_training.data.readers import open_dataset
from perception_training.data.synthetic import scene_shards
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.mesh_views.writing import write_mesh_views
from perception_training.data.synthetic.scene_shards import write_scenes
from perception_training.data.synthetic.scenes.clips import render_clips
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import render_clip

SMALL = ("--views.size-px", "64", "--views.num-views", "12")
CONFIG = MeshViewsConfig(size_px=64, num_views=12)


@pytest.fixture
def shapes(tmp_path):
    """A folder with two meshes, and one that is none."""
    folder = tmp_path / "meshes"
    meshes.save(primitives.box((0.5, 0.3, 0.2), [random_texture(seed, 32) for seed in range(6)]), folder / "000-001/box.obj")
    meshes.save(primitives.sphere(0.3, random_texture(7, 32)), folder / "000-002/ball.glb")
    return folder


def write_bad(shapes):
    bad = shapes / "000-001" / "bad.obj"
    bad.write_text("v 0 0 0\n")
    return bad


def test_the_reader_reads_what_was_rendered(shapes, tmp_path, capsys):
    assert main(["render", str(shapes), "--out", str(tmp_path / "out"), "--seed", "4", *SMALL]) == 0
    assert "2 objects rendered" in capsys.readouterr().out
    dataset = open_dataset("objaverse", tmp_path / "out")
    assert dataset.sequence_names == ("000-001/box", "000-002/ball")
    read, direct = dataset[0].load(range(12)), MeshViews(shapes / "000-001/box.obj", CONFIG, 4).load(range(12))
    for a, b in zip(read.images, direct.images, strict=True):
        np.testing.assert_array_equal(a, b)
    assert read.cameras == direct.cameras
    np.testing.assert_allclose(read.world_from_camera, direct.world_from_camera, atol=1e-12)


def test_a_second_run_renders_only_what_is_not_complete(shapes, tmp_path, capsys):
    out = tmp_path / "out"
    main(["render", str(shapes / "000-001/box.obj"), "--out", str(out), *SMALL])
    kept = view_files(out / "000-001/box", 3).color
    before = kept.stat().st_mtime_ns
    (out / "000-002/ball.partial").mkdir(parents=True)
    (out / "000-002/ball.partial/color_000000.png").write_bytes(b"half")
    capsys.readouterr()
    assert main(["render", str(shapes), "--out", str(out), *SMALL]) == 0
    assert "1 objects rendered, 1 were complete" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before
    assert sorted(path.name for path in (out / "000-002").iterdir()) == ["ball"]


def test_what_is_interrupted_leaves_no_folder_that_looks_complete(shapes, tmp_path):
    def stop(done, _total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mesh_views([shapes / "000-001/box.obj"], tmp_path / "out", CONFIG, progress=stop)
    assert not list((tmp_path / "out").glob("*/box"))
    report = write_mesh_views([shapes / "000-001/box.obj"], tmp_path / "out", CONFIG)
    assert report.rendered == ("000-001/box",)
    open_dataset("objaverse", tmp_path / "out")[0].load(range(12))


def test_progress_counts_views_to_the_end(shapes, tmp_path):
    seen = []
    write_mesh_views(sorted(shapes.rglob("*.obj")) + sorted(shapes.rglob("*.glb")), tmp_path / "out", CONFIG, progress=lambda *now: seen.append(now))
    assert seen[-1] == (24, 24)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_other_settings_or_another_seed_in_the_same_folder_are_refused(shapes, tmp_path, capsys):
    out = str(tmp_path / "out")
    main(["render", str(shapes), "--out", out, *SMALL])
    assert main(["render", str(shapes), "--out", out, *SMALL, "--seed", "1"]) == 2
    assert "seed = 0, asked for is 1" in capsys.readouterr().err
    assert main(["render", str(shapes), "--out", out, *SMALL, "--views.distance", "3"]) == 2
    assert "distance = 2.0, asked for is 3.0" in capsys.readouterr().err
    assert main(["render", str(shapes), "--out", out, *SMALL, "--views.num-threads", "1"]) == 0


def test_a_bad_mesh_is_named_and_skipped_only_when_asked(shapes, tmp_path, capsys):
    bad = write_bad(shapes)
    assert main(["render", str(shapes), "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert str(bad) in capsys.readouterr().err
    assert main(["render", str(shapes), "--out", str(tmp_path / "out"), "--skip-bad", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "1 bad" in printed
    assert f"mesh {bad}" in printed.replace("\n", "")
    assert open_dataset("objaverse", tmp_path / "out").sequence_names == ("000-001/box", "000-002/ball")


def test_two_meshes_of_one_name_are_refused(shapes, tmp_path, capsys):
    meshes.save(primitives.sphere(0.3, random_texture(7, 32)), shapes / "000-001/box.glb")
    assert main(["render", str(shapes), "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert "would both be written as 000-001/box" in capsys.readouterr().err


def test_preview_of_what_was_rendered(shapes, tmp_path, capsys):
    assert main(["render", str(shapes), "--out", str(tmp_path / "out"), "--preview", *SMALL]) == 0
    path = tmp_path / "out" / "preview.png"
    assert str(path) in capsys.readouterr().out.replace("\n", "")
    assert images.read_image(path).std() > 10


def test_preview_alone_renders_a_few_views(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(shapes), "--preview", *SMALL]) == 0
    assert "preview.png" in capsys.readouterr().out
    assert images.read_image(tmp_path / "preview.png").std() > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meshes", "preview.png"]


def test_nothing_to_do_is_an_error(capsys):
    assert main(["render"]) == 2
    assert "--out DIR" in capsys.readouterr().err
    assert main(["render", "/nowhere.obj", "--preview"]) == 2
    assert "/nowhere.obj: no such file" in capsys.readouterr().err


TINY = ("--scenes.width", "48", "--scenes.height", "32", "--scenes.num-frames", "3", "--scenes.samples-per-pixel", "1", "--scenes.num-tracks", "8")


def test_scenes_are_written_into_shards_that_the_reader_reads(tmp_path, capsys):
    assert main(["render", "--out", str(tmp_path / "clips"), "--num-clips", "2", "--seed", "5", "--device", "cpu", "--preview", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "2 clips in 1 shards" in printed
    assert images.read_image(tmp_path / "clips" / "preview.png").std() > 10
    dataset = open_dataset("shards", tmp_path / "clips")
    assert len(dataset) == 2
    config = ScenesConfig(width=48, height=32, num_frames=3, samples_per_pixel=1, num_tracks=8)
    for index in range(2):
        read, direct = dataset[index].load(range(3)), render_clip(config, 5 + index)
        assert read.depth_m is not None
        assert direct.depth_m is not None
        for frame in range(3):
            np.testing.assert_array_equal(read.images[frame], direct.images[frame])
            np.testing.assert_array_equal(read.depth_m[frame], direct.depth_m[frame])
        assert read.tracks is not None
        assert direct.tracks is not None
        np.testing.assert_array_equal(read.tracks.points_px, direct.tracks.points_px)


def test_interrupted_scenes_go_on_after_the_last_shard_without_rendering_it_again(tmp_path, monkeypatch):
    config = ScenesConfig(width=48, height=32, num_frames=2, samples_per_pixel=1, num_tracks=4)
    rendered = []

    def recorded(config, seeds, device):
        rendered.extend(seeds)
        return render_clips(config, seeds, device)

    monkeypatch.setattr(scene_shards, "render_clips", recorded)

    def stop(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, config, range(7, 10), progress=stop, shard_size_mb=0.001)
    rendered.clear()
    summary = write_scenes(tmp_path, config, range(7, 10), shard_size_mb=0.001)
    assert rendered == [8, 9]
    assert (summary.num_clips, summary.num_shards) == (3, 3)
    assert open_dataset("shards", tmp_path).sequence_names == ("00000007", "00000008", "00000009")
    with pytest.raises(InputError, match="shards of another job"):
        write_scenes(tmp_path, config, range(8, 11))


def test_preview_alone_shows_scenes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["render", "--preview", "--num-clips", "1", *TINY]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]
    assert images.read_image(tmp_path / "preview.png").std() > 10
