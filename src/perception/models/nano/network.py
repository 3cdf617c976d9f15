"""The network: fixed gradient layouts under a projection, plus what a small residual U-Net adds to them.

The projection is not learned by gradients but computed from pairs of views (`perception_training.methods.discriminant_projection`): what it keeps are
statistics of gradients, which hold for real images too. The U-Net, whose output starts near zero, learns what to add. It sees the projected layouts
and the strength of the gradients, not the colours, and what it adds is bounded: what it learns on rendered scenes holds for real ones to the extent
that it cannot tell them apart.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception.models.nano.gradient_layouts import GradientLayouts

STRIDE_PX = 4
OFFSET_PX = 1.5
_FIRST_SHARE = 0.1
"""Of the U-Net's output at the start of training."""
_DESCRIPTOR_GAIN = 8.0
"""Brings the entries of projected layouts, which are of about unit length, to the size of the other inputs."""
_WEAKEST_ENERGY = 3e-3
"""Gradients weaker than that, of less than one grey level, all look alike."""

_LEAST_ENERGY = 1e-6
"""Of a cell of the coarsest level. One pixel in it that differs by one grey level gives more."""


@dataclass(frozen=True, kw_only=True)
class NanoConfig(Checked):
    """Sizes of the network; they are stored with the weights."""

    dim: Annotated[int, Range(8, 1024)] = 128
    """Length of a descriptor."""
    bins: Annotated[int, Range(4, 32)] = 8
    """Directions of gradients, a multiple of 4."""
    levels: Annotated[int, Range(2, 5)] = 4
    """Sizes of gradient layouts, from cells of 2 px on; each is twice the one before."""
    widths: Annotated[tuple[int, ...], Range(1, 1024)] = (64, 96, 128, 192)
    """Channels at strides 4, 8, 16, ...; as many as `depths`, no fewer than `levels` - 1."""
    depths: Annotated[tuple[int, ...], Range(1, 32)] = (1, 2, 2, 2)
    """Residual blocks at each stride."""
    pyramid: Annotated[int, Range(1, 512)] = 96
    """Channels on the way back to stride 4."""
    largest_addition: Annotated[float, Range(0.0, 10.0)] = 0.5
    """Length of what the U-Net adds at most, where projected layouts are about 1 long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins % 4:
            raise ConfigError(f"NanoConfig.bins = {self.bins}: must be a multiple of 4")
        if len(self.widths) != len(self.depths) or len(self.widths) < self.levels - 1:
            raise ConfigError(
                f"NanoConfig: {len(self.widths)} widths, {len(self.depths)} depths, {self.levels} levels: must be as many widths as depths, "
                "and no fewer than levels - 1"
            )


class _Unit(nn.Module):
    """Convolution without bias and batch norm; `folded` makes one convolution of them."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(x))
        return result

    def fold(self) -> None:
        """In place, unless it is done already; only for evaluation."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), nn.Identity()


class _Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added; an identity at the start of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Unit(channels, channels, 3), _Unit(channels, channels, 3)
        assert isinstance(self.second.norm, nn.BatchNorm2d)
        nn.init.zeros_(self.second.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class _Projection(nn.Conv2d):
    """Of a layout less its mean."""

    def forward(self, layout: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        """The bias is the mean's, of layouts that are 1 long."""
        assert self.bias is not None
        return functional.conv2d(layout, self.weight) * scale + self.bias[:, None, None]


class NanoNetwork(nn.Module):
    """Images → descriptors on a grid of stride 4 px whose first cell is centred on pixel 1.5."""

    takes_batches = True
    any_size = True

    def __init__(self, config: NanoConfig | None = None) -> None:
        super().__init__()
        self.config = config = config if config is not None else NanoConfig()
        self.dim, self.stride_px, self.offset_px = config.dim, STRIDE_PX, OFFSET_PX
        self.multiple_px = STRIDE_PX * 2 ** (len(config.widths) - 1)
        self.layouts = GradientLayouts(config.bins, config.levels)
        self.enter = nn.ModuleList([_Unit(config.dim + config.bins, width, 1) for width in config.widths[: config.levels - 1]])
        self.down = nn.ModuleList([_Unit(before, after, 3, 2) for before, after in zip(config.widths, config.widths[1:], strict=False)])
        self.blocks = nn.ModuleList(
            [nn.Sequential(*(_Residual(width) for _ in range(depth))) for width, depth in zip(config.widths, config.depths, strict=True)]
        )
        self.lateral = nn.ModuleList([nn.Conv2d(width, config.pyramid, 1) for width in config.widths])
        self.up = nn.ModuleList([nn.Conv2d(config.pyramid, config.pyramid, 3, padding=1) for _ in config.widths[1:]])
        self.out = nn.Conv2d(config.pyramid, config.dim, 1)
        self.project = nn.ModuleList([_Projection(self.layouts.dim, config.dim, 1) for _ in range(config.levels)])
        self._reset()

    @torch.no_grad()
    def set_projection(self, matrix: Tensor, mean: Tensor) -> None:
        """Project layouts, those of all levels one after the other, by `matrix` (dim, levels * layout) once `mean` (levels * layout) is taken off."""
        parts = zip(self.project, matrix.split(self.layouts.dim, dim=1), mean.split(self.layouts.dim), strict=True)
        for layer, part, middle in parts:
            layer.get_parameter("weight").copy_(part[:, :, None, None])
            layer.get_parameter("bias").copy_(-(part @ middle))

    @torch.no_grad()
    def _reset(self) -> None:
        """Start as a random orthogonal projection of the layouts, all sizes counting alike."""
        whole = torch.empty(self.dim, self.layouts.dim * self.config.levels)
        nn.init.orthogonal_(whole)
        for layer, part in zip(self.project, whole.split(self.layouts.dim, dim=1), strict=True):
            layer.get_parameter("weight").copy_(part[:, :, None, None])
            nn.init.zeros_(layer.get_parameter("bias"))
        self.out.weight.mul_(_FIRST_SHARE)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def prepare(self, height: int, width: int) -> None:
        """Nothing depends on the image size."""

    def forward(self, image: Tensor) -> Tensor:
        """image (batch, 3, height, width) RGB in [0, 1], sides multiples of `multiple_px` → (batch, dim, height / 4, width / 4), not
        normalised, zero where the image is flat around."""
        energies, layouts = self.layouts(image.contiguous(memory_format=torch.channels_last))
        parts = [project(layout, scale) for project, (layout, scale) in zip(self.project, layouts, strict=True)]
        parts[:2] = [parts[0] + parts[1]]  # both at the cells of 4 px
        added = self._added(self._context(parts, energies))
        result: Tensor | None = None
        for part in reversed(parts):
            result = part if result is None else part.add_(_enlarged(result))
        assert result is not None
        return result.add_(added).mul_(self._textured(energies[-1]))

    def _textured(self, coarsest: Tensor) -> Tensor:
        """1 where there is any gradient around, else 0."""
        there = (coarsest.amax(1, keepdim=True) > _LEAST_ENERGY).to(coarsest.dtype)
        return functional.interpolate(there, scale_factor=2.0 ** (self.config.levels - 2), mode="nearest")

    def _added(self, context: Tensor) -> Tensor:
        """What the U-Net adds to the descriptors."""
        added: Tensor = self.out(context)
        largest = self.config.largest_addition
        return added * (largest / ((added * added).sum(1, keepdim=True) + largest**2).sqrt())

    def _context(self, parts: list[Tensor], energies: list[Tensor]) -> Tensor:
        """What the U-Net knows of each cell, (batch, pyramid, rows, cols)."""
        entering = [
            functional.relu(unit(torch.cat([_DESCRIPTOR_GAIN * part, _strength(level)], dim=1)))
            for unit, part, level in zip(self.enter, parts, energies, strict=True)
        ]
        x = self.blocks[0](entering[0])
        found = [x]
        for number, (unit, blocks) in enumerate(zip(self.down, list(self.blocks)[1:], strict=True), 1):
            x = functional.relu(unit(x))
            x = blocks(x + entering[number] if number < len(entering) else x)
            found.append(x)
        context: Tensor = self.lateral[-1](found[-1])
        for number in reversed(range(len(self.up))):
            context = functional.relu(self.up[number](_enlarged(context) + self.lateral[number](found[number])))
        return context


def _strength(energies: Tensor) -> Tensor:
    """Logarithm of gradient energies, within about -1.4 and 1.5."""
    return torch.log(energies.float() + _WEAKEST_ENERGY).mul_(0.5).add_(1.5).to(energies.dtype)


def _enlarged(x: Tensor) -> Tensor:
    """At half the stride."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def folded(network: NanoNetwork) -> NanoNetwork:
    """A copy for evaluation without batch norms, its convolutions channels last: the same result in less time."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, _Unit):
            module.fold()
    result: NanoNetwork = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return result
