import numpy as np
import pytest
from tests.support.miniatures.scene import meshes as scene_meshes

from perception.core.errors import InputError
from perception.io import meshes
from perception_training.data.readers import open_dataset

SMALL = {"views": {"num_views": 3, "size_px": 32, "supersampling": 1, "num_threads": 1}}


@pytest.fixture
def folder(tmp_path):
    for name, index in (("ball", 2), ("box", 1)):
        (tmp_path / name).mkdir()
        meshes.save(scene_meshes().meshes[index], tmp_path / name / "model.obj")
    return tmp_path


def test_each_mesh_is_a_sequence_of_its_views(folder):
    dataset = open_dataset("mesh_views", folder, SMALL)
    assert dataset.sequence_names == ("ball/model", "box/model")
    sample = dataset[1].load((0, 2))
    assert sample.sequence == "box/model"
    assert sample.images[0].shape == (32, 32, 3)
    np.testing.assert_array_equal(sample.depth_m[0] > 0, sample.masks[0] > 0)


def test_one_mesh_and_an_unknown_name(folder):
    dataset = open_dataset("mesh_views", folder / "box" / "model.obj", SMALL)
    assert dataset.sequence_names == ("box/model",)
    with pytest.raises(InputError, match=r"no mesh 'cup'; the first is 'box/model'"):
        dataset.open_sequence("cup")


def test_meshes_of_one_name_are_refused(folder):
    meshes.save(scene_meshes().meshes[1], folder / "box" / "model.ply")
    with pytest.raises(InputError, match=r"model\.obj.*model\.ply: both are named box/model"):
        open_dataset("mesh_views", folder, SMALL)


def test_a_folder_without_meshes_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no meshes"):
        open_dataset("mesh_views", tmp_path, SMALL)
