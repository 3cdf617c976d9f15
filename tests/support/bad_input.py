"""Tests of bad input that every reader of frames on disk must pass: shared, so that a reader says only how its own files are damaged.

`class TestBadInput(BadInput)` in a reader's test file, with `write`, `no_rotation` and `no_frames` of its own, is all that is needed.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pytest

from perception.core.errors import InputError
from perception.io import images
from perception_training.data.readers import open_dataset

RUBBISH = b"\x00\xffnothing that belongs here: {[("
"""No file in any of the layouts starts like this."""

_KNOWS_ITS_END = {".json", ".jgz", ".bin", ".gz", ".xml"}
"""Files whose truncation shows; a shorter list of lines is still a list of lines."""


@dataclass(frozen=True)
class Copy:
    """A miniature on disk: how it is opened, and the files of one of its sequences that can be damaged.

    images, depths: of at least two frames · annotations: files without which the sequence cannot be read · options of the reader.
    """

    dataset: str
    root: Path
    sequence: str
    images: tuple[Path, ...]
    depths: tuple[Path, ...] = ()
    annotations: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def read_everything(copy: Copy) -> None:
    """Open the data set and the sequence and load its frames one by one."""
    sequence = open_dataset(copy.dataset, copy.root, copy.options).open_sequence(copy.sequence)
    for frame in range(len(sequence)):
        sequence.load([frame])


def assert_reported(copy: Copy, named: Path | str) -> None:
    """Reading the copy raises InputError, and the message names this path."""
    with pytest.raises(InputError) as caught:
        read_everything(copy)
    assert str(named) in str(caught.value), f"{caught.value}\ndoes not name\n{named}"


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class BadInput:
    """Derive from this as `TestBadInput` and give the three methods that raise NotImplementedError here."""

    def write(self, folder: Path) -> Copy:
        """A fresh, good copy below an empty folder."""
        raise NotImplementedError

    def no_rotation(self, copy: Copy) -> Path | str:
        """Make one pose of the copy a matrix that is no rotation; what the message must name."""
        raise NotImplementedError

    def no_frames(self, copy: Copy) -> Path | str:
        """Leave the sequence in place but without frames; what the message must name."""
        raise NotImplementedError

    def test_a_good_copy_is_read(self, tmp_path: Path) -> None:
        read_everything(self.write(tmp_path))

    def test_worker_processes_can_be_given_data_set_and_sequence(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        dataset = pickle.loads(pickle.dumps(open_dataset(copy.dataset, copy.root, copy.options)))
        sample = pickle.loads(pickle.dumps(dataset.open_sequence(copy.sequence))).load([1, 0])
        assert len(sample) == 2

    def test_a_truncated_image_is_named(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        cut_in_half(copy.images[1])
        assert_reported(copy, copy.images[1])

    def test_a_listed_frame_that_is_absent_is_named(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        copy.images[1].unlink()
        assert_reported(copy, copy.images[1])

    def test_an_image_that_its_intrinsics_are_not_for_is_named(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        image = images.read_image(copy.images[1])
        images.write_image(copy.images[1], cv2.resize(image, (image.shape[1] // 2, image.shape[0])))
        assert_reported(copy, copy.images[1])

    def test_a_truncated_depth_image_is_named(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        for path in copy.depths[1:2]:
            cut_in_half(path)
            assert_reported(copy, path)

    def test_damaged_annotations_are_named(self, tmp_path: Path) -> None:
        for number in range(len(self.write(tmp_path / "good").annotations)):
            copy = self.write(tmp_path / f"rubbish_{number}")
            copy.annotations[number].write_bytes(RUBBISH)
            assert_reported(copy, copy.annotations[number])
            copy = self.write(tmp_path / f"missing_{number}")
            copy.annotations[number].unlink()
            assert_reported(copy, copy.annotations[number])
            copy = self.write(tmp_path / f"half_{number}")
            if copy.annotations[number].suffix in _KNOWS_ITS_END:
                cut_in_half(copy.annotations[number])
                assert_reported(copy, copy.annotations[number])

    def test_a_pose_that_is_no_rotation_is_named(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        assert_reported(copy, self.no_rotation(copy))

    def test_a_sequence_without_frames_is_named(self, tmp_path: Path) -> None:
        copy = self.write(tmp_path)
        assert_reported(copy, self.no_frames(copy))
