"""Templates of random descriptors, planted in a frame of random descriptors: where they are found is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from perception.core.types import Camera, FeatureMap, Grid
from perception.geometry.camera import project
from perception.pipelines.template_search import _largest_around, find_templates
from perception.pipelines.view_templates import OBJECT_PX, SIDE, SPACING_PX, Templates, joined

DIM, CELLS = 32, (30, 40)
HEIGHT, WIDTH = CELLS[0] * SPACING_PX, CELLS[1] * SPACING_PX
CAMERA = Camera(WIDTH, HEIGHT, 500.0, 500.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
PLACES = torch.tensor([row * SIDE + col for row in range(2, 9) for col in range(3, 8)], dtype=torch.int32)


def random_units(*shape: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def one_template(seed: int) -> Templates:
    """As of a view straight on, one metre away."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = 1.0
    focal_px = torch.tensor([500.0], dtype=torch.float64)
    num = len(PLACES)
    return Templates(random_units(num, DIM, seed=seed).half(), torch.zeros(num, dtype=torch.int32), PLACES, pose[None], focal_px, focal_px)


def frame_with(template: Templates, middle: tuple[int, int], hidden: int = 0) -> FeatureMap:
    """Random descriptors in cells of half the spacing, but those of the template around fine cell `middle`, of which the first are hidden."""
    cells = random_units(2 * CELLS[0], 2 * CELLS[1], DIM, seed=99)
    for number in range(hidden, len(template.place)):
        row, col = divmod(int(template.place[number]), SIDE)
        cells[middle[0] + 2 * (row - SIDE // 2), middle[1] + 2 * (col - SIDE // 2)] = template.descriptors[number].float()
    spacing = SPACING_PX / 2
    grid = Grid(((spacing - 1) / 2, (spacing - 1) / 2), (spacing, spacing))
    return FeatureMap(cells.permute(2, 0, 1).contiguous(), grid, (HEIGHT, WIDTH), "random", 1, "camera")


def centre_px(middle: tuple[int, int]) -> np.ndarray:
    """Pixel (x, y) of a fine cell."""
    return (np.array(middle[::-1]) + 0.5) * SPACING_PX / 2 - 0.5


@pytest.fixture(scope="module")
def templates() -> Templates:
    made = joined([one_template(seed) for seed in range(5)])
    assert made is not None
    return made


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("middle", [(30, 40), (23, 51)])
def test_a_template_is_found_where_it_was_planted(templates: Templates, middle: tuple[int, int], hidden: int) -> None:
    found = find_templates(templates, [(frame_with(one_template(3), middle, hidden), 1.0)], CAMERA, 3)
    np.testing.assert_allclose(found[0].centre_px, centre_px(middle), atol=SPACING_PX / 2 + 0.01)  # a cell each way is forgiven
    assert found[0].score > 1.5 * found[1].score
    seen_px = project(found[0].camera_from_object[None, :3, 3], CAMERA)[0]
    np.testing.assert_allclose(seen_px, found[0].centre_px, atol=1e-6)
    assert np.linalg.norm(found[0].camera_from_object[:3, 3]) == pytest.approx(1.0)


def test_a_smaller_scale_is_a_nearer_object(templates: Templates) -> None:
    (found,) = find_templates(templates, [(frame_with(one_template(1), (30, 40)), 0.5)], CAMERA, 1)
    np.testing.assert_allclose(found.centre_px, (centre_px((30, 40)) + 0.5) * 2 - 0.5, atol=SPACING_PX + 0.01)
    assert np.linalg.norm(found.camera_from_object[:3, 3]) == pytest.approx(0.5)
    assert found.scale == 0.5
    assert OBJECT_PX / found.scale == 320


def test_places_that_are_not_allowed_are_not_found(templates: Templates) -> None:
    allowed = np.ones((HEIGHT, WIDTH), bool)
    allowed[200:300, 250:400] = False
    found = find_templates(templates, [(frame_with(one_template(3), (30, 40)), 1.0)], CAMERA, 20, allowed)
    assert found
    for match in found:
        x, y = match.centre_px
        assert not (250 + SPACING_PX < x < 400 - SPACING_PX and 200 + SPACING_PX < y < 300 - SPACING_PX)
    assert not find_templates(templates, [(frame_with(one_template(3), (30, 40)), 1.0)], CAMERA, 20, np.zeros((HEIGHT, WIDTH), bool))


def test_joined_templates_are_sorted_by_place_and_keep_their_own_points(templates: Templates) -> None:
    assert (templates.place.diff() >= 0).all()
    for number in range(5):
        own = templates.template == number
        assert torch.equal(templates.descriptors[own], one_template(number).descriptors)
        assert torch.equal(templates.place[own], PLACES)


def test_the_largest_around_is_a_max_pooling() -> None:
    values = torch.rand(5, 7, 9)
    assert torch.equal(_largest_around(_largest_around(values, 1), 2), functional.max_pool2d(values[None], 3, stride=1, padding=1)[0])
    single = torch.rand(2, 1, 3)
    assert torch.equal(_largest_around(single, 1), single)
