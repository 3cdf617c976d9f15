"""The heads that turn tokens into maps, against plain forms and by what must hold for any weights. Official outputs: tests/parity."""

import pytest
import torch
from tests.support.closeness import assert_close
from torch.nn import functional

from perception.models.parts.conv_head import ConvHead, view_plane
from perception.models.parts.dpt import DptFusion, reassembly_layers

DIMS, DIM = (3, 4, 5, 6), 7


def levels(rows, cols, seed=0):
    """Token maps of rows * cols patches, reassembled: half sizes are rounded up."""
    torch.manual_seed(seed)
    layers = reassembly_layers((8, 9, 9, 10), DIMS)
    return [resize(project(torch.randn(2, dim, rows, cols))).detach() for dim, (project, resize) in zip((8, 9, 9, 10), layers, strict=True)]


def fusion(form):
    torch.manual_seed(1)
    return DptFusion(DIMS, DIM, form).eval()


def unit(block, x, skip):
    return block.conv2(functional.relu(block.conv1(functional.relu(x)))) + skip(x)


def step(block, level, coarser, skip):
    total = level if coarser is None else coarser + unit(block.resConfUnit1, level, skip)
    return unit(block.resConfUnit2, total, skip)


def enlarge(block, x, **size):
    return block.out_conv(functional.interpolate(x, mode="bilinear", align_corners=True, **size))


def as_in_croco(model, maps):
    """Written out: everything is doubled, and only the coarsest level can have become too large."""
    one, two, three, four = (getattr(model, f"layer{index + 1}_rn")(level) for index, level in enumerate(maps))
    coarse = enlarge(model.refinenet4, step(model.refinenet4, four, None, torch.clone), scale_factor=2)[..., : three.shape[-2], : three.shape[-1]]
    for block, level in ((model.refinenet3, three), (model.refinenet2, two), (model.refinenet1, one)):
        coarse = enlarge(block, step(block, level, coarse, torch.clone), scale_factor=2)
    return coarse


def as_in_vggt(model, maps):
    """Written out: everything is enlarged to the size of the next level, and skips are rectified."""
    one, two, three, four = (getattr(model, f"layer{index + 1}_rn")(level) for index, level in enumerate(maps))
    coarse = enlarge(model.refinenet4, step(model.refinenet4, four, None, functional.relu), size=three.shape[-2:])
    coarse = enlarge(model.refinenet3, step(model.refinenet3, three, coarse, functional.relu), size=two.shape[-2:])
    coarse = enlarge(model.refinenet2, step(model.refinenet2, two, coarse, functional.relu), size=one.shape[-2:])
    return enlarge(model.refinenet1, step(model.refinenet1, one, coarse, functional.relu), scale_factor=2)


@pytest.mark.parametrize(("rows", "cols"), [(4, 6), (5, 7), (1, 1)])
@pytest.mark.parametrize(("form", "plain"), [("croco", as_in_croco), ("vggt", as_in_vggt)])
def test_the_fusion_is_that_of_its_form(rows, cols, form, plain):
    model, maps = fusion(form), levels(rows, cols)
    assert [tuple(level.shape[-2:]) for level in maps] == [(4 * rows, 4 * cols), (2 * rows, 2 * cols), (rows, cols), (-(-rows // 2), -(-cols // 2))]
    with torch.inference_mode():
        found = model(maps)
        assert found.shape == (2, DIM, 8 * rows, 8 * cols)
        assert_close(found, plain(model, maps))


def test_the_forms_differ_in_keys_by_what_dust3r_stores_without_need():
    extra = set(fusion("croco").state_dict()) - set(fusion("vggt").state_dict())
    unused = {f"refinenet4.resConfUnit1.conv{index}.{kind}" for index in (1, 2) for kind in ("weight", "bias")}
    assert extra == unused | {f"layer_rn.{index}.weight" for index in range(4)}


def test_the_view_plane_reaches_from_edge_to_edge_of_the_image():
    x, y = view_plane(4, 8, aspect=2.0)
    assert_close(float(x[0, 1] - x[0, 0]) * 8 / 2, 2 / 5**0.5, rtol=1e-5)
    assert_close(float(y[1, 0] - y[0, 0]) * 4 / 2, 1 / 5**0.5, rtol=1e-5)
    assert_close(x, -x.flip(1))
    assert_close(y, -y.flip(0))
    single = view_plane(1, 1, aspect=1.0)
    assert single.tolist() == [[[0.0]], [[0.0]]]


def test_doubling_starts_without_a_checkerboard():
    torch.manual_seed(0)
    head = ConvHead(6, (4, 4), (2,))
    for block in head.upsample_blocks:
        weight = block[0][0].weight
        assert bool((weight == weight[:, :, :1, :1]).all())
        assert weight.std() > 0


def test_a_head_gives_each_output_at_the_images_size():
    torch.manual_seed(0)
    head, x = ConvHead(6, (4, 4, 4), (2, 1)), torch.randn(2, 6, 3, 2)
    with torch.inference_mode():
        first, second = head(x, 42, 28)
        alone = head(x[1:], 42, 28)
    assert (first.shape, second.shape) == ((2, 2, 42, 28), (2, 1, 42, 28))
    assert_close(alone[0], first[1:])
