"""Pictures without end."""

import numpy as np
import pytest

from perception_training.data.synthetic.collages import collage
from perception_training.data.synthetic.homographies import Homographies, HomographiesConfig


def test_a_seed_is_a_picture_and_another_seed_another_one():
    first, again, other = (collage(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10


def test_pictures_have_edges_in_all_quarters():
    """Nine pictures of ten; shapes are rare in the emptiest."""
    busy = []
    for seed in range(20):
        grey = collage(np.random.default_rng(seed), 128).astype(float).mean(2)
        steps = np.maximum(np.abs(np.diff(grey, axis=0))[:, 1:], np.abs(np.diff(grey, axis=1))[1:])
        busy.append(min((part > 12).mean() for half in np.array_split(steps, 2) for part in np.array_split(half, 2, axis=1)) > 0.01)
    assert np.mean(busy) >= 0.9


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pairs_show_collages_or_photographs(share):
    """No two pairs show the same collage; of photographs there are only a few."""
    dataset = Homographies(HomographiesConfig(height=60, width=80, share_photographs=share))
    pictures = {dataset.open_sequence(f"{seed:08d}")._views()[0].tobytes() for seed in range(30)}
    assert (len(pictures) == 30) == (share == 0.0)
