"""What worker processes are sent: sequences and data sets as pickles of our own making."""

import pickle

import numpy as np
import pytest
from tests.support.miniatures.keypoints import pair_truth
from tests.support.miniatures.navi import navi_scene, write_navi
from tests.support.miniatures.pf_pascal import write_pf_pascal
from tests.support.miniatures.scene import miniature_scene
from tests.support.miniatures.spair71k import write_spair71k
from tests.support.miniatures.tapvid import write_tapvid_davis
from tests.support.miniatures.youtube_vos import write_youtube_vos

from perception.core.errors import InputError
from perception_training.data.readers import open_dataset

WRITERS = {
    "navi": lambda folder: write_navi(folder, navi_scene()),
    "pf_pascal": lambda folder: write_pf_pascal(folder, pair_truth()),
    "spair71k": lambda folder: write_spair71k(folder, pair_truth()),
    "tapvid_davis": lambda folder: write_tapvid_davis(folder, miniature_scene()),
    "youtube_vos": lambda folder: write_youtube_vos(folder, miniature_scene(11)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_sequence_and_its_data_set_read_the_same_elsewhere(tmp_path, name):
    WRITERS[name](tmp_path)
    dataset = open_dataset(name, tmp_path)
    here = dataset[0].load((0,))
    for there in (pickle.loads(pickle.dumps(dataset[0])), pickle.loads(pickle.dumps(dataset))[0]):
        sample = there.load((0,))
        np.testing.assert_array_equal(sample.images[0], here.images[0])
        assert sample.frame_names == here.frame_names


@pytest.mark.parametrize("name", WRITERS)
def test_a_sequence_that_the_set_has_not_is_an_error(tmp_path, name):
    WRITERS[name](tmp_path)
    with pytest.raises(InputError):
        open_dataset(name, tmp_path).open_sequence("nothing/such")
