"""Parts of the transformers: what each must be, for any weights."""

import pytest
import torch
from tests.support.closeness import assert_close
from torch import nn

from perception.core.errors import InputError
from perception.models.parts.attention import Attention, CrossAttention
from perception.models.parts.blocks import LayerScale, TransformerBlock, checkpointed
from perception.models.parts.patch_embedding import PatchEmbedding, patch_grid
from perception.models.parts.pixel_head import PixelHead
from perception.models.parts.rotary import grid_positions, rotary_table, rotate

HEAD_DIM = 8


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def scores(query_position, key_position, seed=0):
    """Scalar products of a fixed query and key at two positions (y, x)."""
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 1, 1, 1, HEAD_DIM, generator=generator)
    turned = [rotate(x, rotary_table(torch.tensor([at]), HEAD_DIM)) for x, at in ((query, query_position), (key, key_position))]
    return (turned[0] * turned[1]).sum()


def test_rotated_scores_depend_on_the_difference_of_positions_only():
    assert_close(scores((5, 2), (1, 7)), scores((4 + 6, 1 + 6), (0 + 6, 6 + 6)), atol=1e-5)
    assert abs(scores((5, 2), (1, 7)) - scores((5, 2), (1, 8))) > 1e-4
    assert abs(scores((5, 2), (1, 7)) - scores((5, 2), (2, 7))) > 1e-4


def test_rows_turn_the_first_half_of_a_head_and_columns_the_second():
    x = torch.randn(1, 1, 1, HEAD_DIM)
    down, right = (rotate(x, rotary_table(torch.tensor([at]), HEAD_DIM)) for at in ((3, 0), (0, 3)))
    half = HEAD_DIM // 2
    assert torch.equal(down[..., half:], x[..., half:])
    assert torch.equal(right[..., :half], x[..., :half])
    assert not torch.allclose(down[..., :half], x[..., :half])


def test_the_lowest_pair_of_components_turns_by_the_position_itself():
    x = torch.zeros(1, 1, 1, HEAD_DIM)
    x[..., 0] = 1.0
    turned = rotate(x, rotary_table(torch.tensor([(0.5, 0.0)]), HEAD_DIM))[0, 0, 0]
    assert_close(turned[[0, HEAD_DIM // 4]], torch.tensor([0.5]).cos().tolist() + torch.tensor([0.5]).sin().tolist())


def test_positions_of_a_grid_go_row_by_row():
    assert grid_positions(2, 3, offset=1).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


def plain_attention(query, key, value, num_heads, mask=None):
    """(batch, n, dim) each; the matrix of weights is stored."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = query @ key.mT / query.shape[-1] ** 0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return (weights.softmax(-1) @ value).transpose(1, 2).flatten(2)


def test_attention_is_softmax_of_scaled_products_and_a_mask_hides_keys():
    torch.manual_seed(1)
    attention, x, mask = Attention(12, 3), torch.randn(2, 5, 12), torch.rand(5, 5) > 0.4
    mask.fill_diagonal_(True)
    for allowed in (None, mask):
        assert_close(attention(x, mask=allowed), attention.proj(plain_attention(*attention.qkv(x).chunk(3, -1), 3, allowed)), atol=1e-6)


def test_queries_and_keys_are_normalised_before_they_are_rotated():
    torch.manual_seed(2)
    attention, x = Attention(16, 2, qk_norm=True), torch.randn(1, 6, 16)
    nn.init.normal_(attention.q_norm.weight)
    rotary = rotary_table(grid_positions(2, 3), HEAD_DIM)
    query, key, value = attention.qkv(x).chunk(3, -1)
    heads = [norm(part.unflatten(-1, (2, -1)).transpose(1, 2)) for norm, part in ((attention.q_norm, query), (attention.k_norm, key))]
    query, key = (rotate(part, rotary).transpose(1, 2).flatten(2) for part in heads)
    assert_close(attention(x, rotary), attention.proj(plain_attention(query, key, value, 2)), atol=1e-6)


def test_cross_attention_reads_the_context_only():
    torch.manual_seed(3)
    attention, query, context = CrossAttention(16, 2), torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    expected = plain_attention(attention.projq(query), attention.projk(context), attention.projv(context), 2)
    assert_close(attention(query, context), attention.proj(expected), atol=1e-6)
    here, there = rotary_table(grid_positions(2, 3), HEAD_DIM), rotary_table(grid_positions(2, 2), HEAD_DIM)
    moved = attention(query, context, rotary_table(grid_positions(2, 3, 4), HEAD_DIM), rotary_table(grid_positions(2, 2, 4), HEAD_DIM))
    assert_close(attention(query, context, here, there), moved, atol=1e-5)
    assert not torch.allclose(attention(query, context, here, there), attention(query, context))


def test_a_block_has_layer_scales_and_norms_of_queries_only_where_it_is_asked_to():
    plain = set(TransformerBlock(8, 2).state_dict())
    full = set(TransformerBlock(8, 2, qk_norm=True, layer_scale=0.1).state_dict())
    assert full - plain == {"ls1.gamma", "ls2.gamma", *(f"attn.{name}_norm.{kind}" for name in "qk" for kind in ("weight", "bias"))}
    assert plain <= full
    assert_close(LayerScale(3, 0.5)(torch.tensor([2.0, 4.0, 6.0])), [1.0, 2.0, 3.0])


@torch.enable_grad()
def test_a_checkpointed_block_gives_the_same_values_and_gradients():
    torch.manual_seed(4)
    block, x = TransformerBlock(8, 2, layer_scale=0.5), torch.randn(1, 4, 8)
    gradients = []
    for enabled in (False, True):
        block.zero_grad()
        checkpointed(block, x, rotary_table(grid_positions(2, 2), 4), enabled=enabled).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in block.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b)


def test_a_pixel_head_orders_its_outputs_by_channel_row_and_column():
    head = PixelHead(1, 2, 2)
    head.proj.weight.zero_()
    head.proj.bias.copy_(torch.arange(8.0))
    image = head(torch.zeros(1, 6, 1), 2, 3)
    assert image.shape == (1, 2, 4, 6)
    assert image[0, :, :2, :2].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_patches_are_embedded_row_by_row():
    embedding, images = PatchEmbedding(5, 4), torch.randn(2, 3, 8, 12)
    tokens = embedding(images)
    assert tokens.shape == (2, 6, 5)
    patch = images[1, :, 4:8, 0:4]
    assert_close(tokens[1, 3], (embedding.proj.weight * patch).sum((1, 2, 3)) + embedding.proj.bias, atol=1e-5)


@pytest.mark.parametrize("size", [(14, 15), (0, 14), (7, 14)])
def test_images_that_are_no_multiple_of_the_patch_are_refused(size):
    with pytest.raises(InputError, match=rf"here: images of {size[1]}x{size[0]} px; .* multiples of the patch, 14 px"):
        patch_grid(*size, 14, "here")
