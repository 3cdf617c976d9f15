"""One set of colours for overlays, plots and reports: the eight of Okabe and Ito, told apart by colour-blind readers too."""

from __future__ import annotations

Color = tuple[int, int, int]

BLUE: Color = (0, 114, 178)
ORANGE: Color = (230, 159, 0)
GREEN: Color = (0, 158, 115)
VERMILION: Color = (213, 94, 0)
PURPLE: Color = (204, 121, 167)
SKY: Color = (86, 180, 233)
YELLOW: Color = (240, 228, 66)
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)
GREY: Color = (128, 128, 128)

PALETTE: tuple[Color, ...] = (SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILION, BLUE)
"""RGB colours of the objects in the order of their index."""


def object_color(index: int) -> Color:
    """Colour of the object with this index; colours repeat after seven."""
    return PALETTE[index % len(PALETTE)]


def hex_color(color: Color) -> str:
    """`#rrggbb`, for plots and style sheets."""
    return "#{:02x}{:02x}{:02x}".format(*color)
