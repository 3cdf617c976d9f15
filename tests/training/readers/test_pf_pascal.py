import numpy as np
import pytest
import scipy.io
from tests.support.bad_input import RUBBISH, BadInput, Copy, assert_reported
from tests.support.closeness import assert_close
from tests.support.miniatures.keypoints import pair_truth
from tests.support.miniatures.pf_pascal import CATEGORY, STEMS, write_pf_pascal

from perception.core.errors import InputError
from perception_training.data.readers import open_dataset

PAIR = f"0000-{STEMS[0]}-{STEMS[1]}:{CATEGORY}"


@pytest.fixture
def copy(tmp_path):
    truth = pair_truth()
    write_pf_pascal(tmp_path, truth)
    return tmp_path, truth


@pytest.mark.parametrize("options", [{}, {"keypoints": "annotations"}, {"view": "same"}, {"view": "different", "keypoints": "annotations"}])
def test_keypoints_of_a_pair_are_the_projections_of_the_same_points(copy, options):
    root, truth = copy
    sample = open_dataset("pf_pascal", root, options)[0].load((0, 1))
    assert_close(sample.tracks.points_px, truth.points_px[:, truth.common].astype(np.float32))
    if options.get("keypoints") == "annotations":
        assert sample.tracks.names == tuple(map(str, truth.common))


def test_the_list_of_different_views_pairs_by_order_as_its_evaluation_does(copy):
    root, truth = copy
    counts = truth.seen.sum(axis=1)
    assert counts[0] != counts[1]
    tracks = open_dataset("pf_pascal", root, {"view": "different"})[0].load((0, 1)).tracks
    assert tracks.num_points == counts.min()
    for side in (0, 1):
        assert_close(tracks.points_px[side], truth.points_px[side][truth.seen[side]][: counts.min()].astype(np.float32))
    # which is not what corresponds
    assert np.abs(tracks.points_px[:, : len(truth.common)] - truth.points_px[:, truth.common][:, : counts.min()]).max() > 5


def test_images_boxes_and_category_are_those_of_the_pair(copy):
    root, truth = copy
    dataset = open_dataset("pf_pascal", root / "PF-dataset-PASCAL")
    assert dataset.sequence_names == (PAIR,)
    sample = dataset[0].load((0, 1))
    assert sample.frame_names == STEMS
    assert sample.text == CATEGORY
    for image, written in zip(sample.images, truth.images, strict=True):
        assert image.shape == written.shape
        assert np.abs(image.astype(int) - written).mean() < 4  # JPEG
    np.testing.assert_array_equal(sample.objects[0].boxes_px, truth.boxes_px())


def test_training_pairs_take_keypoints_from_the_annotations_and_flipped_ones_are_mirrored(copy):
    root, truth = copy
    dataset = open_dataset("pf_pascal", root, {"split": "trn"})
    straight, flipped = (dataset[index].load((0, 1)) for index in (0, 1))
    assert_close(straight.tracks.points_px, truth.points_px[:, truth.common].astype(np.float32))
    for side, width in enumerate((160, 320)):
        np.testing.assert_array_equal(flipped.images[side], straight.images[side][:, ::-1])
        expected = straight.tracks.points_px[side] * (-1, 1) + (width - 1, 0)
        np.testing.assert_allclose(flipped.tracks.points_px[side], expected, atol=1e-4)
        x0, y0, x1, y1 = straight.objects[0].boxes_px[side]
        np.testing.assert_array_equal(flipped.objects[0].boxes_px[side], (width - 1 - x1, y0, width - 1 - x0, y1))


def test_padding_of_minus_one_is_left_out(copy):
    root, truth = copy
    path = root / "PF-dataset-PASCAL" / "test_pairs_pf_pascal.csv"
    header, row = path.read_text().splitlines()
    path.write_text("\n".join([header, ",".join([*row.split(",")[:3], *(f"{column};-1;-1" for column in row.split(",")[3:])])]))
    assert open_dataset("pf_pascal", root)[0].load((0, 1)).tracks.num_points == len(truth.common)


def test_without_mat_files_the_list_is_enough_and_there_are_no_boxes(copy):
    root, truth = copy
    (root / "PF-dataset-PASCAL" / "Annotations").rename(root / "elsewhere")
    sample = open_dataset("pf_pascal", root)[0].load((0, 1))
    assert sample.objects[0].boxes_px is None
    assert sample.tracks.num_points == len(truth.common)
    with pytest.raises(InputError, match=f"{STEMS[0]}.mat: no such file"):
        open_dataset("pf_pascal", root, {"keypoints": "annotations"})[0]


def test_views_are_of_the_test_split_only(copy):
    with pytest.raises(InputError, match="must be test for view = same"):
        open_dataset("pf_pascal", copy[0], {"view": "same", "split": "val"})


def test_a_missing_list_is_named_with_its_other_names(copy):
    with pytest.raises(InputError, match=r"val_pairs_pf_pascal\.csv: no such file \(nor val_pairs\.csv\)"):
        open_dataset("pf_pascal", copy[0], {"split": "val"})


class TestBadInput(BadInput):
    test_a_pose_that_is_no_rotation_is_named = None  # the set has no poses

    def write(self, folder):
        base = write_pf_pascal(folder, pair_truth())
        images = tuple(base / "JPEGImages" / f"{stem}.jpg" for stem in STEMS)
        annotations = (base / "test_pairs_pf_pascal.csv", *(base / "Annotations" / CATEGORY / f"{stem}.mat" for stem in STEMS))
        return Copy("pf_pascal", folder, PAIR, images, annotations=annotations)

    def no_frames(self, copy):
        path = copy.annotations[0]
        path.write_text(path.read_text().splitlines()[0])
        return path

    @pytest.mark.parametrize(
        "change",
        [
            lambda row: [*row[:3], "900;5", "3;4", "5;6", "7;8"],
            lambda row: [*row[:3], "9;5", "3", "5;6", "7;8"],
            lambda row: [*row[:3], "9;five", "3;4", "5;6", "7;8"],
            lambda row: [*row[:3], "9;nan", "3;4", "5;6", "7;8"],
            lambda row: [*row[:2], "21", *row[3:]],
            lambda row: row[:5],
        ],
    )
    def test_a_wrong_row_is_named_with_its_file(self, tmp_path, change):
        copy = self.write(tmp_path)
        path = copy.annotations[0]
        header, row = path.read_text().splitlines()
        path.write_text(f"{header}\n{','.join(change(row.split(',')))}\n")
        assert_reported(copy, path)

    @pytest.mark.parametrize("content", [{"kps": np.zeros((3, 3)), "bbox": np.zeros((1, 4))}, {"kps": np.zeros((3, 2))}])
    def test_a_wrong_annotation_is_named(self, tmp_path, content):
        copy = self.write(tmp_path)
        scipy.io.savemat(copy.annotations[1], content)
        assert_reported(copy, copy.annotations[1])

    def test_a_list_with_other_columns_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        copy.annotations[0].write_text("a,b\n1,2\n")
        assert_reported(copy, copy.annotations[0])
        copy.annotations[0].write_bytes(RUBBISH)
        assert_reported(copy, copy.annotations[0])
