"""Shards give back what was written into them."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
from tests.support.miniatures.numbered import MiniatureDataset, MiniatureOptions, identity_of
from tests.support.miniatures.samples import scene_sample
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.images import read_image, write_image
from perception_training.cli.main import main
from perception_training.data.frame_coding import CodingConfig, decode_depth, encode_depth, encode_image
from perception_training.data.frame_sampling import FrameSamplingConfig
from perception_training.data.mixture import Mixture, Source
from perception_training.data.readers import open_dataset
from perception_training.data.sample import Sample
from perception_training.data.shard_writing import ShardConfig, ShardWriter, encode_sequence, write_dataset, write_samples
from perception_training.data.shards import stream_samples


def assert_equal(found, expected):
    """Same type, same bits, whatever the nesting."""
    assert type(found) is type(expected) or isinstance(expected, Path)
    if dataclasses.is_dataclass(expected):
        for item in dataclasses.fields(expected):
            assert_equal(getattr(found, item.name), getattr(expected, item.name))
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)
    else:
        assert found == expected


def difficult_sample():
    """Every field, with what is unknown in each."""
    sample = scene_sample()
    poses = sample.world_from_camera.copy()
    poses[2] = np.nan
    lens = Camera(160, 120, 144.1, 144.2, 80.3, 60.4, "plumb_bob", (0.1, 0.01, 1e-3, -1e-3))
    objects = tuple(
        replace(
            item,
            camera_from_object=np.where(np.arange(4)[:, None, None] == 1, np.nan, item.camera_from_object),
            visible_share=np.array([1, np.nan, 0.5, 0.25]),
            boxes_px=np.where(np.arange(4)[:, None] == 3, np.nan, [1.5, 2.25, 30.0, 40.0]),
            mesh_unit_m=0.001,
        )
        for item in sample.objects
    )
    points = sample.tracks.points_px.copy()
    points[1, 2] = np.nan
    tracks = replace(sample.tracks, points_px=points, names=tuple(f"point {n}" for n in range(sample.tracks.num_points)))
    masks = (sample.masks[0], sample.masks[1] * 300, sample.masks[2] * 100_000, sample.masks[3])
    cameras = (sample.cameras[0], None, lens, sample.cameras[3])
    return replace(
        sample,
        world_from_camera=poses,
        cameras=cameras,
        objects=objects,
        tracks=tracks,
        masks=masks,
        unit="arbitrary",
        mask_known=np.array([True, False, True, True]),
        attributes={"split": "train", "difficulty": 2, "mirrored": False, "scale": 0.5},
    )


def test_the_difficult_sample_leaves_no_field_out():
    sample = difficult_sample()
    for part in (sample, sample.tracks, *sample.objects):
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            assert value is not None, item.name
            assert isinstance(value, np.ndarray) or item.default is dataclasses.MISSING or value != item.default, item.name


def bare_sample():
    sample = scene_sample(2)
    return Sample("video", "clip", sample.frame_names, sample.images)


@pytest.mark.parametrize("sample", [difficult_sample(), bare_sample()], ids=["all fields", "images only"])
def test_every_field_survives_bit_for_bit(sample, tmp_path):
    write_samples([sample], tmp_path, ShardConfig(), {"made": "here"})
    data = open_dataset("shards", tmp_path)
    (name,) = data.sequence_names
    sequence = data.open_sequence(name)
    assert_equal(sequence.load(range(len(sample))), sample)
    assert_equal(next(iter(stream_samples(str(tmp_path / "shard-000000.tar")))), sample)
    if sample.world_from_camera is None:
        assert sequence.world_from_camera is None
    else:
        np.testing.assert_array_equal(sequence.world_from_camera, sample.world_from_camera)


def test_stored_frames_reproject_to_the_truth(tmp_path):
    write_samples([scene_sample()], tmp_path, ShardConfig(), {})
    sample = open_dataset("shards", tmp_path)[0].load([0, 3])
    assert reprojection_error_px(sample, miniature_scene(), (0, 3)) < 0.5


def test_single_frames_are_read_without_the_others(tmp_path):
    write_samples([difficult_sample()], tmp_path, ShardConfig(), {})
    sequence = open_dataset("shards", tmp_path)[0]
    found = sequence.load([3, 1])
    np.testing.assert_array_equal(found.images[0], difficult_sample().images[3])
    assert found.frame_names == ("frame3", "frame1")
    assert_equal(found.tracks, difficult_sample().tracks.at_frames([3, 1]))
    with pytest.raises(InputError, match=r"shard-000000\.tar.*frame 4 is not there"):
        sequence.load([4])


def miniature(lengths=(9, 4, 12), **options):
    return MiniatureDataset(MiniatureOptions(lengths=lengths, **options))


def test_whole_sequences_keep_their_names_and_frames(tmp_path):
    source = miniature()
    summary = write_dataset(source, tmp_path, ShardConfig(shard_size_mb=0.1))
    data = open_dataset("shards", tmp_path)
    assert data.sequence_names == source.sequence_names
    assert summary.num_clips == 3
    assert summary.num_shards > 1
    for name in source.sequence_names:
        expected = source.open_sequence(name).load(range(len(source.open_sequence(name))))
        assert_equal(data.open_sequence(name).load(range(len(expected))), expected)


def test_clips_start_at_multiples_and_hold_every_step_th_frame(tmp_path):
    summary = write_dataset(miniature(has_depth=False), tmp_path, ShardConfig(frames=2, step=3))
    data = open_dataset("shards", tmp_path)
    assert data.sequence_names == ("s0@000000", "s1@000000", "s2@000000", "s2@000006")
    assert [identity_of(image) for image in data.open_sequence("s2@000006").load([0, 1]).images] == [(2, 6), (2, 9)]
    assert summary.skipped == ()


def test_worker_processes_write_the_same_bytes(tmp_path):
    for num_workers in (0, 2):
        write_dataset(miniature(has_depth=False), tmp_path / str(num_workers), ShardConfig(frames=2, shard_size_mb=0.05), num_workers=num_workers)
    files = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "2").iterdir())
    assert len(files) > 3
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize("config", [ShardConfig(shard_size_mb=0.08), ShardConfig(frames=1, shard_size_mb=0.05)], ids=["sequences", "clips"])
def test_a_run_that_was_stopped_goes_on_after_its_last_finished_shard(config, tmp_path, monkeypatch):
    source = miniature((6,) * 6, has_depth=False)
    write_dataset(source, tmp_path / "whole", config)
    encoded = []

    def stop_at_fifth(dataset, name, config):
        encoded.append(name)
        if len(encoded) == 5:
            raise KeyboardInterrupt
        return encode_sequence(dataset, name, config)

    monkeypatch.setattr("perception_training.data.shard_writing.encode_sequence", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(source, tmp_path / "again", config)
    with pytest.raises(InputError, match="not complete"):
        open_dataset("shards", tmp_path / "again")
    assert list((tmp_path / "again").glob("*.part"))
    encoded.clear()
    monkeypatch.setattr("perception_training.data.shard_writing.encode_sequence", lambda *job: encoded.append(job[1]) or encode_sequence(*job))
    write_dataset(source, tmp_path / "again", config)
    assert 0 < len(encoded) < 6
    assert len(open_dataset("shards", tmp_path / "again")) == (6 if config.frames == 0 else 36)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert not list((tmp_path / "again").glob("*.part"))


def test_shards_of_another_job_are_not_mixed(tmp_path):
    write_dataset(miniature(has_depth=False), tmp_path, ShardConfig())
    with pytest.raises(InputError, match="another job"):
        write_dataset(miniature(has_depth=False), tmp_path, ShardConfig(frames=2))


def test_bad_clips_stop_the_run_or_are_skipped_with_their_file(tmp_path):
    source = miniature(has_depth=False, bad=("s1/2",))
    with pytest.raises(InputError, match=r"/miniature/s1/0002\.png"):
        write_dataset(source, tmp_path / "a", ShardConfig(frames=2))
    summary = write_dataset(source, tmp_path / "b", ShardConfig(frames=2), skip_bad=True)
    assert len(summary.skipped) == 1
    assert "/miniature/s1/0002.png" in summary.skipped[0]
    assert "s1@000002" not in open_dataset("shards", tmp_path / "b").sequence_names


def test_too_short_sequences_are_left_out_and_named(tmp_path):
    summary = write_dataset(miniature((9, 1), has_depth=False), tmp_path, ShardConfig(frames=3))
    assert summary.num_clips == 3
    assert "miniature/s1: 1 frames are too few" in summary.skipped[0]
    assert write_dataset(miniature((9, 1), has_depth=False), tmp_path, ShardConfig(frames=3)) == summary  # nothing is left to do


def test_plain_webdataset_reads_the_shards(tmp_path):
    write_samples([scene_sample(), scene_sample(2)], tmp_path, ShardConfig(), {})
    raw = list(webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False))
    found = list(webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False).decode())
    assert [item["__key__"] for item in found] == ["00000000", "00000001"]
    assert found[0]["sample.json"]["text"] == "a box and a ball"
    mask = cv2.imdecode(np.frombuffer(raw[0]["000000.mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, scene_sample().masks[0])
    assert found[0]["tracks.npz"]["points_px"].shape == scene_sample().tracks.points_px.shape


def test_a_mixture_draws_from_shards_what_it_draws_from_the_source(tmp_path):
    source = miniature()
    write_dataset(source, tmp_path, ShardConfig())
    frames = FrameSamplingConfig(mode="pair", max_rotation_deg=20)
    direct, stored = (Mixture([Source("m", data, frames)]) for data in (source, open_dataset("shards", tmp_path)))
    for number in range(5):
        assert_equal(stored[number], direct[number])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_original_bytes_are_kept_where_they_decode_to_the_same_pixels(suffix, tmp_path):
    path = tmp_path / f"image{suffix}"
    write_image(path, scene_sample().images[0])
    image = read_image(path)
    assert encode_image(image, path, CodingConfig())[1] == path.read_bytes()
    suffix_of_crop, data = encode_image(np.ascontiguousarray(image[:50]), path, CodingConfig())
    assert suffix_of_crop == "png"
    assert data != path.read_bytes()


@pytest.mark.parametrize("unit", [1000, 5000, 10000, 256])
def test_depth_that_came_from_16_bits_goes_back_into_them_exactly(unit):
    levels = np.random.default_rng(0).integers(0, 65535, (40, 50)).astype(np.float32)
    for depth in (levels / np.float32(unit), levels * np.float32(1 / unit)):
        suffix, data, rule = encode_depth(depth, CodingConfig(), "here")
        assert suffix == "depth.png"
        np.testing.assert_array_equal(decode_depth(data, suffix, rule, "here"), depth)


def test_lossy_depth_stays_within_the_stated_error():
    depth = np.random.default_rng(0).uniform(0.001, 60, (40, 50)).astype(np.float32)
    depth[0] = 0
    for kind, bound in (("float16", depth / 2048), ("millimetre", np.full_like(depth, 0.000501))):
        suffix, data, rule = encode_depth(depth, CodingConfig(depth=kind), "here")
        found = decode_depth(data, suffix, rule, "here")
        assert (np.abs(found - depth) <= bound).all()
        assert (found[0] == 0).all()
    with pytest.raises(InputError, match=r"here: depth up to 70 .* 65\.535"):
        encode_depth(np.full((2, 2), 70, np.float32), CodingConfig(depth="millimetre"), "here")


def test_damaged_shards_are_named(tmp_path):
    write_samples([scene_sample(2)], tmp_path, ShardConfig(), {})
    tar = tmp_path / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    place = data.index(b"PNG")
    data[place : place + 4] = b"gone"
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"shard-000000\.tar.*000000\.image\.png"):
        open_dataset("shards", tmp_path)[0].load([0])
    tar.write_bytes(data[:2000])
    with pytest.raises(InputError, match=r"shard-000000\.tar: 2000 bytes; must have"):
        open_dataset("shards", tmp_path)
    tar.unlink()
    with pytest.raises(InputError, match=r"shard-000000\.tar: missing"):
        open_dataset("shards", tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="must be perception-shards"):
        open_dataset("shards", tmp_path)


def test_an_empty_writer_leaves_no_half_files(tmp_path):
    with ShardWriter(tmp_path, {}, 1.0) as writer:
        assert writer.finish().num_clips == 0
    assert [path.name for path in tmp_path.iterdir()] == ["shards.json"]


def test_the_command_writes_shards_and_says_what(tmp_path, capsys):
    write_samples([scene_sample()], tmp_path / "in", ShardConfig(), {})
    words = ["data", "shard", "shards", str(tmp_path / "in"), str(tmp_path / "out"), "--frames", "2", "--num-workers", "0", "--depth", "float16"]
    assert main(words) == 0
    assert "2 clips in 1 shards" in capsys.readouterr().out
    assert open_dataset("shards", tmp_path / "out").sequence_names == ("scene@000000@000000", "scene@000000@000002")
    assert main([*words, "--image", "png"]) == 2
    assert "another job" in capsys.readouterr().err
