"""The fixed part of nano: oriented gradient energies at several scales and their SIFT-like layouts, as convolutions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_LUMINANCE = (0.299, 0.587, 0.114)
_CELLS = 4
"""A layout is 4 x 4 cells, as in SIFT."""
_CELL_SPACING = 2
"""Cells of a layout lie so many cells of its level apart."""
_REACH = _CELL_SPACING * (_CELLS - 1) // 2
_BLUR = 0.8
"""Standard deviation of the Gaussian over the cells that each place of a layout sums up, in cells of its level."""
_WINDOW = 2.0
"""Standard deviation of the Gaussian window over a layout, in cells of the layout."""
_SMALLEST_SQUARE = 1e-7
"""Of a gradient; one grey level gives 4e-6. Not added, because onnxruntime leaves out sums with numbers as small as that."""
_SMALLEST_NORM = 1e-4
"""Of a layout of energies, which reach 1 for the strongest edge: flatter patches keep a short, harmless vector before they are rooted."""
_LARGEST_ENTRY = 0.25
"""No entry of a unit layout counts for more, so that one strong edge does not decide."""


class GradientLayouts(nn.Module):
    """Image → energies (batch, bins, rows, cols) in cells of 4, 8, ... px, and for each level the layout around each cell: a vector (batch, 16 bins,
    rows, cols) and the factor (batch, 1, rows, cols) that makes it of unit length, kept apart because it is cheaper to apply to what is made of the
    vector.

    Level 0 is laid out in cells of 2 px, around each cell of 4 px; level i > 0 in cells of 2 * 2^i px, around each of these. Cell 0 of 4 px is
    centred on pixel 1.5. Nothing here is learned or stored with weights.
    """

    luminance: Tensor
    edges: Tensor
    to_half: Tensor
    smooth: Tensor
    places: Tensor
    window: Tensor

    def __init__(self, bins: int, levels: int) -> None:
        super().__init__()
        self.bins, self.levels = bins, levels
        angle = torch.arange(bins) * (2 * math.pi / bins)
        edges = torch.zeros(bins, 1, 3, 3)
        edges[:, 0, 1, 2], edges[:, 0, 1, 0] = torch.cos(angle) / 2, -torch.cos(angle) / 2
        edges[:, 0, 2, 1], edges[:, 0, 0, 1] = torch.sin(angle) / 2, -torch.sin(angle) / 2
        offset = (torch.arange(_CELLS) - (_CELLS - 1) / 2) ** 2
        window = torch.exp(-(offset[:, None] + offset) / (2 * _WINDOW**2))
        places = torch.eye(_CELLS**2).view(_CELLS**2, 1, _CELLS, _CELLS) * window
        for name, kernel in {
            "luminance": torch.tensor(_LUMINANCE).view(1, 3, 1, 1),
            "edges": edges,
            "to_half": _separable((1, 3, 3, 1), bins),
            "smooth": _separable(tuple(math.exp(-(step**2) / (2 * _BLUR**2)) for step in range(-2, 3)), bins),
            "places": places.repeat(bins, 1, 1, 1),
            "window": (window**2).view(1, 1, _CELLS, _CELLS),
        }.items():
            self.register_buffer(name, kernel, persistent=False)

    @property
    def dim(self) -> int:
        """Length of a layout."""
        return _CELLS**2 * self.bins

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """image (batch, 3, height, width) RGB in [0, 1], sides a multiple of 2^levels. Energies of levels 1, 2, ..., layouts of all."""
        fine = self._energies(image)
        energies = [self._halved(fine)]
        for _ in range(self.levels - 2):
            energies.append(self._halved(energies[-1]))
        # Filters of an even length put the fine energies between their cells, where cells of 4 px have their centres.
        between = _filtered(fine, self.to_half, padding=2)
        return energies, [
            self._layout(between, reach=_REACH - 1, stride=2),
            *(self._layout(_filtered(level, self.smooth, padding=2)) for level in energies),
        ]

    def _halved(self, energies: Tensor) -> Tensor:
        return _filtered(energies, self.to_half, padding=1, stride=2)

    def _energies(self, image: Tensor) -> Tensor:
        """Gradient magnitude in each direction, summed up in cells of 2 px. The share of a direction falls with the cube of the cosine.

        Computed in float32 whatever the type of the image is. Runtimes that compute all in bfloat16 do no harm either: whole grey levels are exact in
        it, and one filter takes differences of colours at once, where rounded grey values would drown the faint gradients of flat areas.
        """
        with torch.autocast(image.device.type, enabled=False):
            levels = functional.pad((image.float() * 255).round(), (1, 1, 1, 1), mode="replicate")
            along = functional.conv2d(levels, self.edges.float() * self.luminance.float() / 255)
            quarter = self.bins // 4
            square = along[:, :1] * along[:, :1] + along[:, quarter : quarter + 1] * along[:, quarter : quarter + 1]
            # In place, because fresh memory for maps of this size takes longer than the arithmetic; nothing here has a gradient.
            strength = along.relu_().pow_(3).mul_(square.clamp(min=_SMALLEST_SQUARE).reciprocal())
            return _filtered(strength, self.to_half.float(), padding=1, stride=2).to(image.dtype)

    def _layout(self, smooth: Tensor, reach: int = _REACH, stride: int = 1) -> tuple[Tensor, Tensor]:
        """Energies of 4 x 4 places around every `stride`-th cell, cut and rooted as in RootSIFT (Arandjelovic and Zisserman, CVPR 2012). The first
        cell lies `_REACH - reach` cells inside the border."""
        spread = _filtered(smooth, self.places, padding=reach, dilation=_CELL_SPACING, stride=stride)
        square = (smooth * smooth).sum(1, keepdim=True)
        square = functional.conv2d(square, self.window.to(square.dtype), padding=reach, dilation=_CELL_SPACING, stride=stride)
        length = square.relu().sqrt().clamp(min=_SMALLEST_NORM)  # some convolutions round zeros to negative numbers
        cut = functional.hardtanh_(spread.div_(length), _SMALLEST_NORM / 10, _LARGEST_ENTRY)
        scale = cut.sum(1, keepdim=True).rsqrt()
        return cut.sqrt_(), scale


def _separable(taps: tuple[float, ...], channels: int) -> Tensor:
    """(channels, 1, n, n) of sum 1 for a convolution of each channel alone."""
    line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return (line[:, None] * line)[None, None].repeat(channels, 1, 1, 1)


def _filtered(maps: Tensor, kernel: Tensor, padding: int = 0, stride: int = 1, dilation: int = 1) -> Tensor:
    """Each channel alone under its kernels."""
    return functional.conv2d(maps, kernel, stride=stride, padding=padding, dilation=dilation, groups=maps.shape[1])
