"""A network, or the part of one that is a graph, with all that an export needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from perception.backends.onnx_export import Agreement, MixedNetwork, TypedNetwork, combined, compare
from perception.models.network_extractor import NetworkExtractor

Run = Mapping[str, Tensor]
"""Inputs by name, in the order of the module's arguments."""


@dataclass(frozen=True, kw_only=True)
class GraphPart:
    """What one graph computes.

    model: name of network, weights and part · module: takes inputs in their order, all with the same first side, and returns a float32 tensor or a
    tuple of them with that first side · runs: (images, rows) → inputs to compare on, of at most `rows` rows each, the first run of one row; images
    (1, 3, height, width) float32 in [0, 1] · outputs: names of what it returns · takes: what the inputs are, in words · left_out: what of the network
    is not in the graph, and what computes it; empty where nothing is · max_rows: of the first side, where it counts no images; 0: as asked ·
    float32: names of modules that stay so in every precision · extractor: whose network the part is; None for any other network.
    """

    model: str
    module: nn.Module
    runs: Callable[[Sequence[Tensor], int], list[Run]]
    outputs: tuple[str, ...]
    takes: str
    left_out: str = ""
    max_rows: int = 0
    float32: tuple[str, ...] = field(default=())
    extractor: NetworkExtractor | None = None

    def in_precision(self, dtype: torch.dtype) -> nn.Module:
        """The module with numbers of a type inside: an extractor's network wholly, of others the products. Float32 outside."""
        if self.extractor is not None:
            return TypedNetwork(self.module, dtype)
        return self.module if dtype == torch.float32 else MixedNetwork(self.module, dtype, self.float32)

    def run(self, module: nn.Module, inputs: Run) -> dict[str, Tensor]:
        """What a form of the module gives."""
        with torch.inference_mode():
            found = module(*inputs.values())
        return dict(zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=True))

    def agreement(self, found: Sequence[Mapping[str, Tensor]], expected: Sequence[Mapping[str, Tensor]]) -> Agreement:
        """Of the outputs of all runs: cosines of the descriptors of an extractor's cells, of others those of whole outputs, row by row."""
        pairs = [(mine[name], other[name]) for mine, other in zip(found, expected, strict=True) for name in self.outputs]
        if self.extractor is None:
            pairs = [(mine.flatten(1), other.flatten(1)) for mine, other in pairs]
        return combined([compare(mine, other) for mine, other in pairs])


def extractor_part(extractor: NetworkExtractor, image_size: tuple[int, int]) -> GraphPart:
    """The network of an extractor for images of one size, with what depends on the size worked out."""
    network = extractor.network
    assert isinstance(network, nn.Module)
    network.prepare(*image_size)  # type: ignore[operator]
    return GraphPart(
        model=extractor.name,
        module=network.eval(),
        runs=lambda images, rows: [{"image": image} for image in in_batches(images, rows)],
        outputs=("tokens",),
        takes="image is RGB in [0, 1]; mean and standard deviation of the network are inside the graph",
        extractor=extractor,
    )


def in_batches(images: Sequence[Tensor], rows: int) -> list[Tensor]:
    """The first image alone, then the others, as many at once as `rows` says."""
    rest = images[1:]
    return [images[0], *(torch.cat(list(rest[start : start + rows])) for start in range(0, len(rest), rows))]
