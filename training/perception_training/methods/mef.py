"""MEF: finetuning of dense features so that a surface point looks the same from everywhere (You et al., "Multiview Equivariance Improves 3D
Correspondence Understanding with Minimal Feature Finetuning", ICLR 2025; qq456cvb/3DCorrEnhance).

Two views of one object or scene, points of their surfaces drawn in each view on its own, descriptors interpolated there, and a loss that ranks points
near each other in 3D before those that are far. Trained are low-rank changes (LoRA) of queries and values of the last blocks and a 3x3 convolution
of the final tokens. The released code changes the fused qkv matrix; `transformers` keeps q and v apart, which is the same. Its cells are centred on
pixel patch / 2 (half a pixel beyond ours, with pixel centres at integers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception.core.types import Grid
from perception.models.adapter import Adapter, ConvolvedNetwork
from perception.models.extractor import ExtractorConfig
from perception.models.network_extractor import DenseNetwork, NetworkExtractor
from perception.models.registry import create_extractor
from perception.ops.pairs_of_points import PairLoss
from perception.ops.sampling import sample_map
from perception.ops.smooth_ap import smooth_ap_loss
from perception_training.losses.contrastive import margin_contrastive_loss
from perception_training.losses.diff_procrustes import diff_procrustes_loss
from perception_training.methods.pair_data import PairPoints

_BLOCK_NUMBER = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages?)\.(\d+)\.")
_ADAPTER = "default"


@dataclass(frozen=True, kw_only=True)
class MefNetworkConfig(Checked):
    """The network and which part of it is trained."""

    extractor: str = "dinov2_base"
    """A network of the registry of extractors: any ViT, ALIKE, or one of our own."""
    weights: str = ""
    """Its weights as `ExtractorConfig.weights`; empty: its own default."""
    layer: Annotated[int, Range(-64, 64)] = -1
    """Which block of a ViT gives the tokens."""
    train: Literal["adapter", "everything"] = "adapter"
    """adapter: low-rank changes and convolutions; everything: all weights of the network, and the convolutions."""
    lora_rank: Annotated[int, Range(0, 256)] = 4
    """Rank of the changes; 0: none. Their scale is 1."""
    lora_blocks: Annotated[int, Range(1, 64)] = 4
    """So many blocks at the end are changed; all when there are fewer."""
    lora_layers: tuple[str, ...] = ("q_proj", "v_proj")
    """Last parts of the names of the linear layers of these blocks that are changed."""
    num_convs: Annotated[int, Range(0, 3)] = 1
    """3x3 convolutions of the final tokens, without anything between them."""
    conv_start: Literal["random", "identity"] = "random"
    """First weights of the convolutions. random: torch's own, as published, so that features begin as a random mix; identity: as they were."""


@dataclass(frozen=True, kw_only=True)
class MefLossConfig(Checked):
    """The loss; lengths are in the unit of the points."""

    kind: Literal["smooth_ap", "contrastive", "diff_procrustes"] = "smooth_ap"
    """SmoothAP, or what the paper compares it with."""
    form: Literal["mef_code", "brown"] = "mef_code"
    """SmoothAP as the released code has it, or as Brown et al. (`perception.ops.smooth_ap`)."""
    positive_below: Annotated[float, Range(0.0)] = 5e-3
    """Points nearer than this are the same."""
    negative_above: Annotated[float, Range(0.0)] = 0.1
    """Points farther apart than this must differ."""
    temperature: Annotated[float, Range(1e-6)] = 0.01
    """Of the relaxed step in SmoothAP; of the soft nearest neighbour in DiffProc."""
    positive_margin: Annotated[float, Range(0.0, 2.0)] = 0.1
    """contrastive: positives are not pulled nearer than this."""
    negative_margin: Annotated[float, Range(0.0, 2.0)] = 1.4
    """contrastive: negatives are not pushed farther than this."""
    both_directions: bool = False
    """Also rank the points of the first view for those of the second; published: only the other way."""


@dataclass(frozen=True)
class MefTerms:
    """loss: scalar · num_anchors: scalar int64, 0 when the views share nothing."""

    loss: Tensor
    num_anchors: Tensor = field(repr=False)


class MefNetwork(nn.Module):
    """The dense network with what is trained of it. Raises ConfigError where the extractor is no network or has no layers of the names given."""

    def __init__(self, config: MefNetworkConfig) -> None:
        super().__init__()
        self.config = config
        network = _dense_network(config)
        assert isinstance(network, nn.Module)
        self.takes_batches = bool(getattr(network, "takes_batches", False))
        network.requires_grad_(config.train == "everything")
        self.lora_names = _inject_lora(network, config) if config.lora_rank and config.train == "adapter" else ()
        self.dense = ConvolvedNetwork(network, config.num_convs)  # type: ignore[arg-type]
        if config.conv_start == "identity":
            for conv in self.dense.convs:
                nn.init.dirac_(conv.weight)  # type: ignore[arg-type]
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ConfigError("MefNetworkConfig: lora_rank and num_convs are both 0: one must be positive, or train = everything")

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps lie in the image."""
        return Grid((self.dense.offset_px,) * 2, (float(self.dense.stride_px),) * 2)

    def forward(self, images: Tensor) -> Float[Tensor, "image dim rows cols"]:
        """images (n, 3, height, width) uint8, sides multiples of `dense.multiple_px` → maps, not normalised."""
        height, width = images.shape[-2:]
        unit = self.dense.multiple_px
        if height % unit or width % unit:
            raise ConfigError(
                f"images of {width}x{height} px: sides must be multiples of {unit} for {self.config.extractor} (augmentation.height, width)"
            )
        self.dense.prepare(height, width)
        pixels = images.to(next(self.parameters()).dtype) / 255
        parts = [pixels] if self.takes_batches else list(pixels.split(1))
        return torch.cat([self.dense(part) for part in parts])

    def train(self, mode: bool = True) -> MefNetwork:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.config.train == "adapter":
            self.dense.network.eval()
        return self

    def adapter(self) -> Adapter:
        """What was trained, apart from the network. Raises ConfigError when the whole network was."""
        if self.config.train != "adapter":
            raise ConfigError("MefNetworkConfig.train = everything: there is no adapter; the whole network must be saved")
        layers = dict(self.dense.network.named_modules())
        lora = {}
        for name in self.lora_names:
            layer = layers[name]
            down, up = (getattr(layer, part)[_ADAPTER].weight.detach() for part in ("lora_A", "lora_B"))
            lora[name] = (down, up * layer.scaling[_ADAPTER])  # type: ignore[index]
        return Adapter(lora, {name: value.detach() for name, value in self.dense.convs.state_dict().items()}, self.config.extractor)


def _dense_network(config: MefNetworkConfig) -> DenseNetwork:
    extractor = create_extractor(
        ExtractorConfig(extractor=config.extractor, weights=config.weights, layer=config.layer, device="cpu", precision="float32")
    )
    if not isinstance(extractor, NetworkExtractor):
        raise ConfigError(f"MefNetworkConfig.extractor = {config.extractor!r}: is no network that could be trained; such are dinov2_base, alike_n")
    return extractor.network


def _inject_lora(network: nn.Module, config: MefNetworkConfig) -> tuple[str, ...]:
    """Put trainable low-rank changes beside the layers; their names."""
    from peft import LoraConfig, inject_adapter_in_model

    linear = {name: _BLOCK_NUMBER.search(f"{name}.") for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    numbers = sorted({int(match[1]) for match in linear.values() if match})
    last = set(numbers[-config.lora_blocks :])
    chosen = tuple(name for name, match in linear.items() if match and int(match[1]) in last and name.rpartition(".")[2] in config.lora_layers)
    if not chosen:
        known = sorted({name.rpartition(".")[2] for name, match in linear.items() if match})
        raise ConfigError(
            f"MefNetworkConfig.lora_layers = {list(config.lora_layers)}: {config.extractor} has no such layers in its blocks; "
            f"there are {', '.join(known) or 'none (lora_rank must be 0)'}"
        )
    settings = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, lora_dropout=0.0, bias="none", target_modules=list(chosen))
    inject_adapter_in_model(settings, network, adapter_name=_ADAPTER)
    return chosen


def mef_terms(maps: Float[Tensor, "image dim rows cols"], grid: Grid, points: PairPoints, config: MefLossConfig) -> MefTerms:
    """The loss of pairs of views. maps: of the views in the order first, second, first, ...; points in their pixels."""
    count = len(points.points_px)
    views = maps.unflatten(0, (count, 2)).float()
    pixels = points.points_px.nan_to_num(0.0)  # such points have no place in 3D either, by which losses leave them out
    first, second = (sample_map(views[:, view], pixels[:, view], grid) for view in (0, 1))
    result = _loss(first, second, points.points_world[:, 0], points.points_world[:, 1], config)
    if not config.both_directions:
        return MefTerms(result.loss, result.num_anchors)
    back = _loss(second, first, points.points_world[:, 1], points.points_world[:, 0], config)
    return MefTerms((result.loss + back.loss) / 2, result.num_anchors + back.num_anchors)


def _loss(query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor, config: MefLossConfig) -> PairLoss:
    near, far = config.positive_below, config.negative_above
    if config.kind == "smooth_ap":
        return smooth_ap_loss(
            query, item, query_points, item_points, positive_below=near, negative_above=far, temperature=config.temperature, form=config.form
        )
    if config.kind == "contrastive":
        margins = dict(positive_margin=config.positive_margin, negative_margin=config.negative_margin)
        return margin_contrastive_loss(query, item, query_points, item_points, positive_below=near, negative_above=far, **margins)
    return diff_procrustes_loss(query, item, query_points, item_points, positive_below=near, temperature=config.temperature)
