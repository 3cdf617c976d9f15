"""ALIKE-t and ALIKE-n: small convolutional dense descriptors (Zhao et al., IEEE T-MM 2022), for the published BSD-3 checkpoints.

Only the descriptor part is computed; the keypoint score, last channel of the head, is left out.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from perception.models.checkpoint_files import read_tensors
from perception.models.extractor import ExtractorConfig
from perception.models.network_extractor import NetworkExtractor
from perception.models.weights import load_into, resolve_weights

DEFAULT_STRIDE_PX = 4
CHANNELS = {"alike_t": (8, 16, 32, 64), "alike_n": (16, 32, 64, 128)}
"""Channels of the four blocks; the last is also the length of a descriptor."""
_FILES = {"alike_t": "alike-t", "alike_n": "alike-n"}
_POOLED = {2: 2, 3: 4, 4: 4}


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm; with a 1x1 shortcut from the second block on."""

    def __init__(self, num_in: int, num_out: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(num_out)
        self.downsample = nn.Conv2d(num_in, num_out, 1) if shortcut else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out if self.downsample is None else out + self.downsample(x))

    def fold_norms(self) -> None:
        """Make one convolution of each and its batch norm, in place; only for evaluation."""
        for number in (1, 2):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"bn{number}")
            if isinstance(norm, nn.BatchNorm2d):
                setattr(self, f"conv{number}", fuse_conv_bn_eval(conv.eval(), norm.eval()))
                setattr(self, f"bn{number}", nn.Identity())


class AlikeNetwork(nn.Module):
    """Descriptors of every stride-th pixel, from stride // 2 on. Attribute names are the checkpoint's."""

    multiple_px = 32
    any_size = True

    def __init__(self, channels: tuple[int, int, int, int], stride_px: int = DEFAULT_STRIDE_PX) -> None:
        super().__init__()
        self.dim = channels[-1]
        self.stride_px = stride_px
        self.offset_px = float(stride_px // 2)
        for index, (num_in, num_out) in enumerate(zip((3, *channels), channels, strict=False), 1):
            setattr(self, f"block{index}", _Block(num_in, num_out, shortcut=index > 1))
            setattr(self, f"conv{index}", nn.Conv2d(num_out, self.dim // 4, 1, bias=False))
        self.convhead2 = nn.Conv2d(self.dim, self.dim + 1, 1, bias=False)

    def prepare(self, height: int, width: int) -> None:
        """Nothing depends on the image size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (batch, 3, height, width) in [0, 1] → (batch, dim, height / stride, width / stride), not normalised."""
        kept = slice(int(self.offset_px), None, self.stride_px)
        x, levels, stride_px = image, [], 1
        for index in range(1, 5):
            if index in _POOLED:
                x = functional.max_pool2d(x, _POOLED[index])
                stride_px *= _POOLED[index]
            x = getattr(self, f"block{index}")(x)
            level = functional.relu(getattr(self, f"conv{index}")(x))
            if index > 1:
                level = functional.interpolate(level, scale_factor=float(stride_px), mode="bilinear", align_corners=True)
            # The head is a 1x1 convolution: leaving pixels out before it changes nothing but the time.
            levels.append(level[..., kept, kept])
        return functional.conv2d(torch.cat(levels, 1), self.convhead2.weight[: self.dim])


def create_alike(config: ExtractorConfig) -> NetworkExtractor:
    """`alike_t` and `alike_n` of the registry; without `weights` the published file is downloaded."""
    network = AlikeNetwork(CHANNELS[config.extractor], config.stride_px or DEFAULT_STRIDE_PX)
    path = resolve_weights(config.weights or _FILES[config.extractor])
    load_into(network, read_tensors(path), str(path))
    return NetworkExtractor(config.extractor, network, config)
