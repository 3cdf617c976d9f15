import csv
import json

import pytest
from tests.support.miniatures.bop import write_bop
from tests.support.miniatures.objaverse import write_objaverse
from tests.support.miniatures.scene import miniature_scene
from tests.support.miniatures.seven_scenes import write_frames
from tests.support.miniatures.tapvid import write_tapvid_davis

from perception_training.cli.evaluate import COMMANDS, main
from perception_training.data.layouts.objaverse_renders import write_settings


@pytest.fixture
def objaverse(tmp_path):
    write_objaverse(tmp_path / "set", miniature_scene())
    folder = tmp_path / "set" / "objaverse_renderings"
    write_settings(folder, miniature_scene().cameras[0], {})
    return folder


def test_correspondence_writes_predictions_scores_and_a_plot(objaverse, tmp_path, capsys):
    words = ["correspondence", "objaverse", str(objaverse), "--out", str(tmp_path / "run"), "--max-views", "3", "--label", "SIFT"]
    assert main(words) == 0
    assert "ape_percent" in capsys.readouterr().out
    content = json.loads((tmp_path / "run" / "score.json").read_text())
    assert (content["benchmark"], content["label"], content["num_predicted"]) == ("correspondence", "SIFT", 1)
    assert content["predictions"]["config"]["features"]["extractor"] == "nano"
    assert content["predictions"]["commit"]
    assert 0 < content["summary"]["ape_percent"] < 60
    with (tmp_path / "run" / "score.csv").open() as stream:
        assert next(iter(csv.DictReader(stream)))["num_pairs"] == "6"
    assert (tmp_path / "run" / "by_turn.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_predicts_nothing_and_another_setting_is_refused(objaverse, tmp_path, capsys):
    words = ["correspondence", "objaverse", str(objaverse), "--out", str(tmp_path / "run"), "--max-views", "2"]
    assert main(words) == 0
    before = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[1]
    assert main(words) == 0
    assert (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[1] == before
    assert main([*words, "--sift-size-px", "16"]) == 2
    message = capsys.readouterr().err
    assert "config features.sift_size_px is 4.0, expected 16.0" in message
    assert main([*words, "--sift-size-px", "16", "--restart"]) == 0


def test_scores_are_made_again_from_the_file_alone(objaverse, tmp_path):
    run = tmp_path / "run"
    assert main(["correspondence", "objaverse", str(objaverse), "--out", str(run), "--max-views", "2"]) == 0
    first = (run / "score.json").read_bytes()
    for name in ("score.json", "score.csv", "by_turn.png"):
        (run / name).unlink()
    objaverse.rename(objaverse.with_name("gone"))
    assert main(["score", str(run)]) == 0
    assert (run / "score.json").read_bytes() == first


def test_a_damaged_image_is_named_or_skipped(objaverse, tmp_path, capsys):
    image = next(objaverse.rglob("color_000001.png"))
    image.write_bytes(image.read_bytes()[:100])
    words = ["correspondence", "objaverse", str(objaverse), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert str(image) in capsys.readouterr().err
    assert main([*words, "--skip-bad"]) == 2
    assert "no unit could be predicted" in capsys.readouterr().err


def test_several_extractors_are_compared_in_a_known_scene(tmp_path, capsys):
    frames = write_frames(tmp_path / "frames", intrinsics=True)
    words = ["scene-pose", str(frames), "--out", str(tmp_path / "run"), "--frames.num-reference-frames", "1", "--frames.max-queries", "1"]
    words += ["--frames.database.stride-px", "16", "--frames.database.num-words", "16"]
    assert main([*words, "--extractors", "dense_sift,sift_size_px=16,label=large", "dense_sift,label=small"]) == 0
    rows = json.loads((tmp_path / "run" / "score.json").read_text())["rows"]
    assert [row["object_name"] for row in rows] == ["large", "small"]
    assert all(row["step_p50_s"] > 0 for row in rows)
    assert main([*words, "--extractors", "dense_sft"]) == 2
    assert "dense_sift" in capsys.readouterr().err


def test_bop_and_tapvid_run_on_miniatures(tmp_path):
    write_bop(tmp_path / "bop", miniature_scene())
    small = ["--pose.reference.num-viewpoints", "12", "--pose.reference.render-size-px", "96", "--pose.database.num-words", "16"]
    assert main(["bop", str(tmp_path / "bop"), "--out", str(tmp_path / "run"), "--split", "test", *small]) == 0
    assert json.loads((tmp_path / "run" / "score.json").read_text())["summary"]["num_targets"] == 2
    pickle = write_tapvid_davis(tmp_path / "davis", miniature_scene())
    assert main(["tapvid-davis", str(pickle), "--out", str(tmp_path / "tracks"), "--tracks.max-videos", "1", "--tracks.max-queries", "4"]) == 0
    assert "strided_average_jaccard_percent" in json.loads((tmp_path / "tracks" / "score.json").read_text())["summary"]


def test_pca_pictures_are_written_for_each_sequence(objaverse, tmp_path):
    assert main(["pca", "objaverse", str(objaverse), "--out", str(tmp_path / "pictures"), "--num-columns", "2"]) == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 1


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("correspondence", "pca")])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "perception-eval" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["scenes", "mvimgnet", "shards", "rosbags", "mesh_views"])
def test_options_of_readers_and_of_the_benchmark_do_not_collide(name, capsys):
    for command in ("correspondence", "pca"):
        with pytest.raises(SystemExit) as caught:
            main([command, name, "--help"])
        assert caught.value.code == 0


def test_an_absent_data_set_is_named(tmp_path, capsys):
    assert main(["pf-pascal", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["tapvid-davis", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert main(["bop", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
