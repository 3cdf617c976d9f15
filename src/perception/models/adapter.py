"""Small additions to a dense network that was finetuned by them alone: low-rank changes of linear layers, and convolutions behind the network.

An adapter is a small file (low-rank changes of DINOv2-S: 0.1 MB; a convolution of descriptors of length 384: 5 MB, of length 64: 0.15 MB). It holds
of each changed layer `lora.<layer>.down` (rank, inputs) and `lora.<layer>.up` (outputs, rank), whose product is added to the layer's weight (Hu et
al., LoRA, 2021; its scale is folded in), `convs.<i>.weight` and `convs.<i>.bias` of 3x3 convolutions, and as metadata the extractor it was made for
and whether its convolutions take the network's output as it is or normalised. Applied to the network, that is as fast as before but for the
convolutions. Convolutions of normalised descriptors alone can also be applied to a map that others use as it is (`MapAdapter`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from perception.core.errors import WeightsError
from perception.core.types import FeatureMap
from perception.models.checkpoint_files import read_tensors
from perception.models.extractor import resolve_precision
from perception.models.network_extractor import DenseNetwork

_LORA, _CONVS = "lora.", "convs."
_DOWN, _UP = ".down", ".up"
EXTRACTOR_KEY = "extractor"
"""Key of the metadata that names the extractor an adapter belongs to."""
_INPUT_KEY, _UNIT_INPUT = "input", "unit descriptors"


class ConvolvedNetwork(nn.Module):
    """A DenseNetwork followed by 3x3 convolutions of its descriptors (dim to dim, nothing between them), as in MEF (You et al., ICLR 2025).

    unit_input: descriptors are normalised before the convolutions.
    """

    def __init__(self, network: DenseNetwork, num_convs: int, unit_input: bool = False) -> None:
        super().__init__()
        assert isinstance(network, nn.Module)
        self.network = network
        self.unit_input = unit_input
        self.dim, self.multiple_px = network.dim, network.multiple_px
        self.stride_px, self.offset_px, self.any_size = network.stride_px, network.offset_px, network.any_size
        self.convs = _convolutions(self.dim, num_convs)

    def prepare(self, height: int, width: int) -> None:
        """As the network's own."""
        self.network.prepare(height, width)  # type: ignore[operator]

    def forward(self, image: Tensor) -> Tensor:
        """image as the network takes it → (1, dim, rows, cols), not normalised."""
        descriptors = self.network(image)
        found: Tensor = self.convs(normalize(descriptors, dim=1) if self.unit_input else descriptors)
        return found


def _convolutions(dim: int, num: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(num)))


@dataclass(frozen=True, eq=False)
class Adapter:
    """lora: layer's name in the network → (down (rank, inputs), up (outputs, rank)) · convs: state of `ConvolvedNetwork.convs` · extractor: what it
    was made for, empty where unknown · unit_input: as `ConvolvedNetwork.unit_input`."""

    lora: Mapping[str, tuple[Tensor, Tensor]]
    convs: Mapping[str, Tensor]
    extractor: str = ""
    unit_input: bool = False

    @property
    def num_convs(self) -> int:
        return len({name.split(".")[0] for name in self.convs})

    def tensors(self) -> dict[str, Tensor]:
        """As they lie in a file."""
        changes = {f"{_LORA}{layer}{end}": part for layer, parts in self.lora.items() for end, part in zip((_DOWN, _UP), parts, strict=True)}
        return {**changes, **{f"{_CONVS}{name}": value for name, value in self.convs.items()}}

    def metadata(self) -> dict[str, str]:
        """What the file says besides."""
        return {EXTRACTOR_KEY: self.extractor, **({_INPUT_KEY: _UNIT_INPUT} if self.unit_input else {})}


def read_adapter(path: Path) -> Adapter:
    """The adapter in a safetensors file. Raises WeightsError that names the file and the first entry that no adapter has."""
    tensors = read_tensors(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    layers = sorted({name.removeprefix(_LORA).rpartition(".")[0] for name in tensors if name.startswith(_LORA)})
    wanted = {f"{_LORA}{layer}{end}" for layer in layers for end in (_DOWN, _UP)}
    unknown = sorted(name for name in tensors if name not in wanted and not name.startswith(_CONVS))
    missing = sorted(wanted - set(tensors))
    if unknown or missing or not tensors:
        found = f"has {unknown[0]}" if unknown else f"lacks {missing[0]}" if missing else "is empty"
        raise WeightsError(f"adapter {path}: {found}; must hold lora.<layer>.down and .up in pairs, and convs.<i>.weight and .bias")
    lora = {layer: (tensors[f"{_LORA}{layer}{_DOWN}"], tensors[f"{_LORA}{layer}{_UP}"]) for layer in layers}
    convs = {name.removeprefix(_CONVS): value for name, value in tensors.items() if name.startswith(_CONVS)}
    return Adapter(lora, convs, metadata.get(EXTRACTOR_KEY, ""), metadata.get(_INPUT_KEY) == _UNIT_INPUT)


def write_adapter(path: Path, adapter: Adapter) -> Path:
    """Write in float16; the old file stays until the new one is whole."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({name: tensor.detach().cpu().half().contiguous() for name, tensor in adapter.tensors().items()}, part, adapter.metadata())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


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
    convolved = ConvolvedNetwork(network, adapter.num_convs, adapter.unit_input)
    _check_convolutions(adapter, convolved.convs, network.dim, place)
    with torch.no_grad():
        for name, (down, up) in adapter.lora.items():
            weight: Tensor = layers[name].weight  # type: ignore[assignment]
            weight += (up.double() @ down.double()).to(weight)
        convolved.convs.load_state_dict(dict(adapter.convs))
    return convolved.eval()


def _check_convolutions(adapter: Adapter, convs: nn.Sequential, dim: int, place: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in adapter.convs.items()}
    wanted = {name: tuple(value.shape) for name, value in convs.state_dict().items()}
    if shapes != wanted:
        raise WeightsError(f"{place}: convolutions {shapes}: must be {wanted} for descriptors of length {dim}")


class MapAdapter:
    """An adapter of convolutions alone, applied to finished maps: one network pass then serves those who adapt it, each in its own way, and those who
    do not. Raises WeightsError that begins with `place` for an adapter that changes the network itself or takes its raw output."""

    def __init__(self, adapter: Adapter, dim: int, place: str) -> None:
        if adapter.lora or not adapter.unit_input or not adapter.convs:
            raise WeightsError(
                f"{place}: changes the network itself; must be convolutions of its descriptors alone. `adapter` of an extractor takes it"
            )
        self._convs = _convolutions(dim, adapter.num_convs).eval().requires_grad_(False)
        _check_convolutions(adapter, self._convs, dim, place)
        self._convs.load_state_dict(dict(adapter.convs))
        identity = nn.init.dirac_(torch.empty(dim, dim, 3, 3))
        for conv in self._convs:
            conv.get_parameter("weight").sub_(identity)

    def apply(self, features: FeatureMap, name: str) -> FeatureMap:
        """Unit descriptors on the same grid; cells that were zero stay so. name: what to call what made them."""
        given = features.descriptors
        dtype = resolve_precision("auto", given.device)
        with torch.inference_mode():
            changed = given[None].float()
            for conv in self._convs.to(given.device, dtype):
                # Only what a convolution adds to its input is computed in half precision: the input itself, most of the sum, stays exact.
                changed = changed + conv(changed.to(dtype)).float()
            descriptors = normalize(changed[0], dim=0) * (given.abs().amax(0) > 0)
        return replace(features, descriptors=descriptors, extractor=name)
