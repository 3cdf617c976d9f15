"""The stream of a mixture is a function of the seed and the sample's number."""

from collections import Counter

import numpy as np
import pytest
from tests.support.miniatures.numbered import MiniatureDataset, MiniatureOptions, identity_of

from perception.core.errors import ConfigError, InputError
from perception_training.data.augmentation import AugmentationConfig
from perception_training.data.frame_sampling import FrameSamplingConfig
from perception_training.data.mixture import Mixture, MixtureConfig, Source, source_from_mapping


def source(name="a", lengths=(6, 6, 6), weight=1.0, bad=(), frames=None, **options):
    dataset = MiniatureDataset(MiniatureOptions(lengths=lengths, bad=bad, has_depth=False, **options), name)
    return Source(name, dataset, frames if frames is not None else FrameSamplingConfig(num_frames=2), weight=weight)


def identities(mixture, numbers):
    return [(mixture[number].dataset, *(identity_of(image) for image in mixture[number].images)) for number in numbers]


def test_a_sample_depends_on_seed_and_number_only():
    forward = identities(Mixture([source("a"), source("b")]), range(20))
    backward = identities(Mixture([source("a"), source("b")]), reversed(range(20)))
    assert forward == backward[::-1]
    assert forward != identities(Mixture([source("a"), source("b")], MixtureConfig(seed=1)), range(20))


def test_sources_are_drawn_by_weight():
    mixture = Mixture([source("a", weight=3.0), source("b", weight=1.0)])
    count = Counter(mixture[number].dataset for number in range(600))
    assert count["a"] / 600 == pytest.approx(0.75, abs=0.05)


def test_a_union_gives_every_item_once_in_each_epoch_in_another_order():
    clips = FrameSamplingConfig(mode="clips", num_frames=2)
    mixture = Mixture([source("a", (6, 4), frames=clips), source("b", (2,), frames=clips)], MixtureConfig(order="union"))
    assert mixture.num_items == 6
    first, second = identities(mixture, range(6)), identities(mixture, range(6, 12))
    assert len(set(first)) == 6
    assert set(first) == set(second)
    assert first != second


def test_balance_of_3dpov_cuts_one_set_to_the_longest_other_and_keeps_two_variants():
    clips = FrameSamplingConfig(mode="clips", num_frames=2)
    sources = [source("co3d", (8,) * 10, frames=clips), source("ytvos", (6, 6), frames=clips)]
    sources += [source(f"dl3dv_{kind}", (8, 6), frames=clips) for kind in ("resized", "cropped")]
    mixture = Mixture(sources, MixtureConfig(order="union", cut=("co3d",)))
    assert [len(items) for items in mixture.items] == [7, 6, 7, 7]
    drawn = identities(mixture, range(mixture.num_items))
    assert Counter(entry[0] for entry in drawn) == {"co3d": 7, "ytvos": 6, "dl3dv_resized": 7, "dl3dv_cropped": 7}
    assert len(set(drawn)) == 27
    assert Mixture(sources, MixtureConfig(order="union")).num_items == 40 + 6 + 7 + 7


def test_cutting_needs_a_union_and_known_names():
    with pytest.raises(ConfigError, match="cut"):
        Mixture([source("a")], MixtureConfig(cut=("a",)))
    with pytest.raises(ConfigError, match=r"\['c'\]"):
        Mixture([source("a")], MixtureConfig(order="union", cut=("c",)))


def test_a_bad_frame_is_an_error_that_names_the_file():
    mixture = Mixture([source("a", (2,), bad=("s0/1",))])
    with pytest.raises(InputError, match=r"/miniature/s0/0001\.png"):
        mixture[0]


@pytest.mark.parametrize("order", ["weighted", "union"])
def test_bad_samples_are_replaced_by_the_same_others_each_time(order):
    config = MixtureConfig(order=order, skip_bad=True)
    mixtures = [Mixture([source("a", (2, 2, 2), bad=("s1/0",))], config) for _ in range(2)]
    drawn = [[mixture.draw(number) for number in range(30)] for mixture in mixtures]
    shown = [[identity_of(item.sample.images[0]) for item in items] for items in drawn]
    assert shown[0] == shown[1]
    assert {sequence for sequence, _ in shown[0]} == {0, 2}
    skipped = [entry for item in drawn[0] for entry in item.skipped]
    assert len(skipped) >= 10 if order == "union" else skipped
    assert all(entry.is_bad and "/miniature/s1/0000.png" in entry.reason for entry in skipped)


def test_a_source_of_bad_samples_only_ends_with_the_last_reason():
    mixture = Mixture([source("a", (2,), bad=("s0/0",))], MixtureConfig(skip_bad=True))
    with pytest.raises(InputError, match=r"20 samples in a row.*s0/0000\.png"):
        mixture[0]


def test_short_sequences_are_replaced_and_counted_apart_from_bad_ones():
    mixture = Mixture([source("a", (1, 6))])
    skipped = [entry for number in range(20) for entry in mixture.draw(number).skipped]
    assert skipped
    assert not any(entry.is_bad for entry in skipped)
    clips = Mixture([source("a", (1, 6), frames=FrameSamplingConfig(mode="clips", num_frames=2))], MixtureConfig(order="union"))
    assert [entry.is_bad for entry in clips.skipped_at_start] == [False]


def test_covisible_frames_are_drawn_until_they_are_found():
    dataset = MiniatureDataset(MiniatureOptions(lengths=(8,)))
    wide = Source("a", dataset, FrameSamplingConfig(mode="pair", min_covisibility=0.85))
    gaps = [abs(identity_of(image)[1] - identity_of(other)[1]) for image, other in (Mixture([wide])[number].images for number in range(12))]
    assert max(gaps) < 7
    impossible = Source("a", dataset, FrameSamplingConfig(mode="random", num_frames=8, min_covisibility=0.99))
    with pytest.raises(InputError, match=r"see 0\.99 of"):
        Mixture([impossible])[0]


def test_only_so_many_sequences_stay_open():
    mixture = Mixture([source("a", (2,) * 9)], MixtureConfig(open_sequences=3))
    for number in range(30):
        mixture[number]
    assert len(mixture._open[0]) == 3


def test_samples_are_augmented_by_their_source():
    grown = Source(
        "a", MiniatureDataset(), FrameSamplingConfig(num_frames=2), AugmentationConfig(height=20, width=30, crop="random", crop_min_share=0.5)
    )
    first, again = (Mixture([grown])[5] for _ in range(2))
    assert first.images[0].shape == (20, 30, 3)
    np.testing.assert_array_equal(first.images[1], again.images[1])
    assert first.cameras == again.cameras


def test_names_must_differ_and_weights_be_positive():
    with pytest.raises(ConfigError, match="different names"):
        Mixture([source("a"), source("a")])
    with pytest.raises(ConfigError, match="weight = 0"):
        source("a", weight=0.0)


def test_a_source_is_made_from_plain_settings(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="data_set and path"):
        source_from_mapping({"data_set": "co3d"})
    with pytest.raises(ConfigError, match="sampling"):
        source_from_mapping({"data_set": "co3d", "path": tmp_path, "sampling": {}})
    monkeypatch.setattr("perception_training.data.mixture.open_dataset", lambda name, path, options: MiniatureDataset())
    made = source_from_mapping({"data_set": "x", "path": tmp_path, "frames": {"num_frames": 3}, "augmentation": {"colour.blur_probability": 0.5}})
    assert made.frames.count == 3
    assert made.augmentation.colour.blur_probability == 0.5
