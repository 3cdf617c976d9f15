"""The object of a seed: one body or several grown into each other, perhaps bent, with printed, photographed, patterned or plain surfaces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from perception.io.meshes import Mesh
from perception.rendering.procedural_textures import printed, random_color
from perception_training.data.synthetic.objects.shapes import Body, bent, random_body
from perception_training.data.synthetic.objects.sheets import joined
from perception_training.data.synthetic.scenes.textures import TEXTURE_SIZE_PX, page, texture

_SHARE_COMPOSED, _SHARE_BENT = 0.3, 0.35
_SHARE_PLAIN_OBJECTS = 0.1
_SHARES_OF_PICTURES = (0.35, 0.1)
"""Of printed packages and of pages; the others are photographs, patterns and plain surfaces as in scenes."""


def random_object(seed: int) -> Mesh:
    """The same mesh for the same seed, about 1 in size, textured."""
    rng = np.random.default_rng((0x0B1EC7, seed))
    body = random_body(rng)
    if rng.random() < _SHARE_COMPOSED:
        for _ in range(int(rng.integers(1, 3))):
            body += _grown_out(rng, random_body(rng))
    if rng.random() < _SHARE_BENT:
        change = bent(rng)
        body = [part.moved(change) for part in body]
    share_plain = 0.9 if rng.random() < _SHARE_PLAIN_OBJECTS else 0.1
    return joined(body, [picture(rng, share_plain) for _ in body], f"object_{seed:06d}")


def picture(rng: np.random.Generator, share_plain: float) -> NDArray[np.uint8]:
    """One surface, at random one picture or two side by side."""
    parts = [_square(rng, share_plain) for _ in range(int(rng.integers(1, 3)))]
    return np.hstack(parts)


def _square(rng: np.random.Generator, share_plain: float) -> NDArray[np.uint8]:
    kind, (packages, pages) = rng.random(), _SHARES_OF_PICTURES
    if share_plain < 0.5 and kind < packages:
        return printed(rng, TEXTURE_SIZE_PX, TEXTURE_SIZE_PX, random_color(rng, 60), int(rng.integers(4, 40)))
    if share_plain < 0.5 and kind < packages + pages:
        return page(rng, TEXTURE_SIZE_PX)
    return texture(rng, share_photographs=0.5 * (1 - share_plain), share_plain=share_plain)


def _grown_out(rng: np.random.Generator, body: Body) -> Body:
    """A smaller part at a random place on the first one, turned anyhow."""
    turn, scale = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix(), rng.uniform(0.35, 0.7)
    place = rng.normal(size=3)
    place *= rng.uniform(0.25, 0.6) / np.linalg.norm(place)
    return [part.moved(lambda points: scale * points @ turn.T + place) for part in body]
