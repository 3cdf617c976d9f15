"""Small additions to a dense network that was finetuned by them alone: low-rank changes of linear layers, and convolutions behind the network.

An adapter is a small file (low-rank changes of DINOv2-S: 0.1 MB; a convolution of descriptors of length 384: 5 MB, of length 64: 0.15 MB). It holds
of each changed layer `lora.<layer>.down` (rank, inputs) and `lora.<layer>.up` (outputs, rank), whose product is added to the layer's weight (Hu et
al., LoRA, 2021; its scale is folded in), `convs.<i>.weight` and `convs.<i>.bias` of 3x3 convolutions, and as metadata the extractor it was made for.
Applied, the network is as fast as before but for the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from perception.core.errors import WeightsError
from perception.models.network_extractor import DenseNetwork
from perception.models.weights import read_state_dict

_LORA, _CONVS = "lora.", "convs."
_DOWN, _UP = ".down", ".up"
EXTRACTOR_KEY = "extractor"
"""Key of the metadata that names the extractor an adapter belongs to."""


class ConvolvedNetwork(nn.Module):
    """A DenseNetwork followed by 3x3 convolutions of its descriptors (dim to dim, nothing between them), as in MEF (You et al., ICLR 2025)."""

    def __init__(self, network: DenseNetwork, num_convs: int) -> None:
        super().__init__()
        assert isinstance(network, nn.Module)
        self.network = network
        self.dim, self.multiple_px = network.dim, network.multiple_px
        self.stride_px, self.offset_px = network.stride_px, network.offset_px
        self.convs = nn.Sequential(*(nn.Conv2d(self.dim, self.dim, 3, padding=1) for _ in range(num_convs)))

    def prepare(self, height: int, width: int) -> None:
        """As the network's own."""
        self.network.prepare(height, width)  # type: ignore[operator]

    def forward(self, image: Tensor) -> Tensor:
        """image as the network takes it → (1, dim, rows, cols), not normalised."""
        found: Tensor = self.convs(self.network(image))
        return found


@dataclass(frozen=True, eq=False)
class Adapter:
    """lora: layer's name in the network → (down (rank, inputs), up (outputs, rank)) · convs: state of `ConvolvedNetwork.convs` · extractor: what it
    was made for, empty where unknown."""

    lora: Mapping[str, tuple[Tensor, Tensor]]
    convs: Mapping[str, Tensor]
    extractor: str = ""

    @property
    def num_convs(self) -> int:
        return len({name.split(".")[0] for name in self.convs})

    def tensors(self) -> dict[str, Tensor]:
        """As they lie in a file."""
        changes = {f"{_LORA}{layer}{end}": part for layer, parts in self.lora.items() for end, part in zip((_DOWN, _UP), parts, strict=True)}
        return {**changes, **{f"{_CONVS}{name}": value for name, value in self.convs.items()}}

    def metadata(self) -> dict[str, str]:
        """What the file says besides."""
        return {EXTRACTOR_KEY: self.extractor}


def read_adapter(path: Path) -> Adapter:
    """The adapter in a safetensors file. Raises WeightsError that names the file and the first entry that no adapter has."""
    tensors = read_state_dict(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        extractor = (file.metadata() or {}).get(EXTRACTOR_KEY, "")
    layers = sorted({name.removeprefix(_LORA).rpartition(".")[0] for name in tensors if name.startswith(_LORA)})
    wanted = {f"{_LORA}{layer}{end}" for layer in layers for end in (_DOWN, _UP)}
    unknown = sorted(name for name in tensors if name not in wanted and not name.startswith(_CONVS))
    missing = sorted(wanted - set(tensors))
    if unknown or missing or not tensors:
        found = f"has {unknown[0]}" if unknown else f"lacks {missing[0]}" if missing else "is empty"
        raise WeightsError(f"adapter {path}: {found}; must hold lora.<layer>.down and .up in pairs, and convs.<i>.weight and .bias")
    lora = {layer: (tensors[f"{_LORA}{layer}{_DOWN}"], tensors[f"{_LORA}{layer}{_UP}"]) for layer in layers}
    convs = {name.removeprefix(_CONVS): value for name, value in tensors.items() if name.startswith(_CONVS)}
    return Adapter(lora, convs, extractor)


def apply_adapter(network: DenseNetwork, adapter: Adapter, place: str) -> ConvolvedNetwork:
    """`network` with the adapter's changes added to its weights (in place), and its convolutions behind it. Raises WeightsError that begins with
    `place` and names the first layer that the network does not have in this shape; the network is then as it was."""
    assert isinstance(network, nn.Module)
    layers = dict(network.named_modules())
    for name, (down, up) in adapter.lora.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear) or layer.weight.shape != (up.shape[0], down.shape[1]) or up.shape[1] != down.shape[0]:
            found = f"{tuple(layer.weight.shape)}" if isinstance(layer, nn.Linear) else "no linear layer"
            raise WeightsError(
                f"{place}: belongs to another architecture than {type(network).__name__}: {name} is {found} there, "
                f"changed by {tuple(up.shape)} x {tuple(down.shape)}"
            )
    convolved = ConvolvedNetwork(network, adapter.num_convs)
    shapes = {name: tuple(value.shape) for name, value in adapter.convs.items()}
    wanted = {name: tuple(value.shape) for name, value in convolved.convs.state_dict().items()}
    if shapes != wanted:
        raise WeightsError(f"{place}: convolutions {shapes}: must be {wanted} for descriptors of length {network.dim}")
    with torch.no_grad():
        for name, (down, up) in adapter.lora.items():
            weight: Tensor = layers[name].weight  # type: ignore[assignment]
            weight += (up.double() @ down.double()).to(weight)
        convolved.convs.load_state_dict(dict(adapter.convs))
    return convolved.eval()
