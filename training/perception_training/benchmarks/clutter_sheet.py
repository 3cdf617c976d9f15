"""Contact sheet of pictures in clutter: a row for each, a column for each method, with the box of the true pose and of the one that was found."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera
from perception.viz.colors import GREEN, VERMILION, WHITE
from perception.viz.overlays import draw_box
from perception.viz.text import draw_label
from perception_training.benchmarks.records import Record

_COLUMN_BLOCKS = 2
_LABEL = (40, 40, 40)


def clutter_sheet(records: Mapping[str, Record]) -> bytes | None:
    """PNG of all pictures that the records keep; None when they keep none. Found boxes are green where ADD is small enough, else red."""
    rows = [_row(name, record, query) for name, record in records.items() for query in record["queries"] if query["picture"]]
    if not rows:
        return None
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % _COLUMN_BLOCKS)
    num = len(rows) // _COLUMN_BLOCKS
    sheet = np.hstack([np.vstack(rows[block * num : (block + 1) * num]) for block in range(_COLUMN_BLOCKS)])
    _, data = cv2.imencode(".png", sheet[..., ::-1])
    return bytes(data)


def _row(name: str, record: Record, query: Mapping[str, Any]) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(query["picture"]), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None, "a record holds a picture that is none"
    image = decoded[..., ::-1].astype(np.uint8)
    width, height, *intrinsics = record["camera"]
    camera = Camera(width, height, *intrinsics).resized(image.shape[1], image.shape[0])
    bounds = np.array(record["bounds"])
    tiles = []
    for method, found in query["found"].items():
        tile = draw_box(np.ascontiguousarray(image), np.array(query["truth"]), bounds, camera, WHITE)
        if found["pose"] is not None:
            color = GREEN if found["add_m"] < record["add_threshold_m"] else VERMILION
            tile = draw_box(tile, np.array(found["pose"]), bounds, camera, color)
        draw_label(tile, f"{name} · {method} · hidden {query['occlusion']:.0%}", (0.0, 0.0), _LABEL)
        tiles.append(tile)
    return np.hstack(tiles)
