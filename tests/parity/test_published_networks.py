"""Every published list of names and shapes belongs to a network of the registry, in both directions (shared/parity/models/*/full_manifest*.json)."""

import json

import pytest
import torch
from tests.support.closeness import PARITY

from perception.models.network_files import compare, most_like
from perception.models.networks import NETWORKS

pytestmark = pytest.mark.parity

MANIFESTS = sorted(PARITY.glob("models/*/full_manifest*.json"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(PARITY)))
def test_the_registry_recognises_every_published_checkpoint_by_names_and_shapes(path):
    manifest = json.loads(path.read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, shape in manifest["keys"].items()}
    likeness = most_like(tensors)
    assert likeness is not None
    assert likeness.share == 1
    for network in likeness.networks:
        name, config = network.removesuffix(")").split(" (")
        assert config == next(iter(NETWORKS[name].configurations)) or len(likeness.networks) > 1
        comparison = compare(name, tensors, config)
        assert comparison.fits, comparison.summary()
        assert comparison.num_tensors == manifest["num_keys"]
