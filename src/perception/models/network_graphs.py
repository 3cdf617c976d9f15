"""Which parts of the published networks are graphs, and what is left to torch. A network joins by a line in GRAPHS.

    from perception.models.network_graphs import network_parts
    parts = network_parts("pi3", create_network("pi3", "tiny"), (56, 70), "pi3(tiny, random)")

What no runtime takes stays outside: singular value decompositions (rotations of Pi3 and TrajVG, `camera_pose`), searches for nearest neighbours
(TrajVG's tracker), gathering of patches at moving points (CoTracker3), choosing of tokens by a mask (CroCo's pretext task).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.core.errors import ConfigError, unknown_name
from perception.models.graph_part import GraphPart, Run, in_batches
from perception.models.parts.patch_embedding import patch_grid

_POSE_IN_TORCH = "cameras are twelve numbers; perception.models.pi3.heads.camera_pose makes them world_from_camera in torch (singular values)"
_PAIR_OUTPUTS = ("points1", "confidence1", "points2", "confidence2")
_MAX_POINTS = 1024
_NUM_POINTS_COMPARED = 8
_LATENT_STRIDE_PX = 8
_COTRACKER_STRIDE_PX = 16
_FILLED_STD = 0.02
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Function(nn.Module):
    """A function of a network and inputs as a module, whose weights are the network's."""

    def __init__(self, network: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self._function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self._function(self.network, *inputs)


def network_parts(name: str, network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    """The graphs of a network of `networks.NETWORKS` for images of (height, width) px. title: what names of parts begin with.

    Raises ConfigError or InputError for a size that does not fit.
    """
    if name not in GRAPHS:
        raise unknown_name("model", name, GRAPHS)
    return GRAPHS[name](network.eval().requires_grad_(False), image_size, title)


def fill_zeros(network: nn.Module) -> None:
    """Draw the parameters that start at zero, which would hide what comes before them from a comparison: a new STDiT predicts 0 whatever it sees."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=_FILLED_STD)


def _clips(images: Sequence[Tensor], rows: int) -> list[Run]:
    """One frame, and a clip of as many as may be."""
    return [{"images": torch.cat(list(images[:count]))} for count in dict.fromkeys((1, min(rows, len(images))))]


def _backbone(network: Any, image_size: tuple[int, int], place: str) -> None:
    rows, cols = patch_grid(*image_size, network.backbone_config.patch_px, place)
    network.encoder.prepare(rows, cols)


def _pi3(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    _backbone(network, image_size, "Pi3")
    return (
        GraphPart(
            model=title,
            module=_Function(network, lambda net, images: tuple(value[0] for value in net.unposed(images[None]))),
            runs=_clips,
            outputs=("local_points", "confidence", "cameras"),
            takes="images are the frames of one clip, RGB in [0, 1]; mean and deviation of ImageNet are taken off inside",
            left_out=_POSE_IN_TORCH,
            float32=("network.point_head", "network.conf_head", "network.camera_head"),
        ),
    )


def _trajvg(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    _backbone(network, image_size, "TrajVG")
    return (
        GraphPart(
            model=title,
            module=_Function(network, lambda net, images: tuple(value[0] for value in net.untracked(images[None]))),
            runs=_clips,
            outputs=("local_points", "confidence", "cameras", "feature_maps"),
            takes="images are the frames of one clip, RGB in [0, 1]; mean and deviation of ImageNet are taken off inside",
            left_out=f"{_POSE_IN_TORCH}; TrajVG.tracker follows points in feature_maps and local_points in torch (nearest neighbours)",
            float32=("network.point_head", "network.conf_head", "network.camera_head"),
        ),
    )


def _dust3r(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    patch_grid(*image_size, network.config.patch_px, "DUSt3R")

    def pairs(images: Sequence[Tensor], rows: int) -> list[Run]:
        first = in_batches([2 * image - 1 for image in images], rows)
        second = in_batches([2 * images[(index + 1) % len(images)] - 1 for index in range(len(images))], rows)
        return [{"images1": one, "images2": other} for one, other in zip(first, second, strict=True)]

    return (
        GraphPart(
            model=title,
            module=_Function(network, lambda net, images1, images2: tuple(net(images1, images2))),
            runs=pairs,
            outputs=_PAIR_OUTPUTS,
            takes="images1 and images2 are RGB in [-1, 1], a pair in each row",
            left_out="alignment of several pairs (perception.geometry) is torch",
            float32=("network.downstream_head1", "network.downstream_head2"),
        ),
    )


def _croco(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    patch_grid(*image_size, network.encoder.patch_embed.patch_px, "CroCo")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
    return (
        GraphPart(
            model=f"{title}.encoder",
            module=_Function(network.encoder, lambda encoder, images: encoder(images)),
            runs=lambda images, rows: [{"images": (batch - mean) / std} for batch in in_batches(images, rows)],
            outputs=("features",),
            takes="images are RGB in [0, 1] less the mean and deviation of ImageNet",
            left_out="the pretext task, which chooses tokens by a mask, runs in torch only",
        ),
    )


def _check_latents(config: Any, image_size: tuple[int, int]) -> None:
    wanted = (_LATENT_STRIDE_PX * config.height, _LATENT_STRIDE_PX * config.width)
    if image_size != wanted:
        raise ConfigError(
            f"image_size = {image_size[0]} {image_size[1]}: must be {wanted[0]} {wanted[1]}, for which this video network was built; see --config"
        )


def _noise(config: Any) -> Callable[[Sequence[Tensor], int], list[Run]]:
    """Latents, steps, captions and masks drawn at random: images have no latents without the encoder of another project."""

    def runs(_: Sequence[Tensor], rows: int) -> list[Run]:
        generator = torch.Generator().manual_seed(0)

        def normal(*sides: int) -> Tensor:
            return torch.randn(*sides, generator=generator)

        def one(batch: int) -> Run:
            mask = torch.ones(batch, config.num_caption_tokens)
            mask[:, config.num_caption_tokens // 2 :] = 0
            return {
                "latents": normal(batch, config.latent_channels, config.num_frames, config.height, config.width),
                "timesteps": 1000 * torch.rand(batch, generator=generator),
                "captions": normal(batch, config.num_caption_tokens, config.caption_dim) / config.caption_dim**0.5,
                "caption_mask": mask,
            }

        return [one(batch) for batch in dict.fromkeys((1, min(rows, 2)))]

    return runs


_TAKES_LATENTS = (
    "latents of stabilityai/sd-vae-ft-ema times 0.18215, diffusion steps, captions of DeepFloyd/t5-v1_1-xxl, mask with 1 where a token of them counts"
)


def _stdit(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    _check_latents(network.config, image_size)
    return (
        GraphPart(
            model=title,
            module=_Function(network, lambda net, *inputs: net(*inputs)),
            runs=_noise(network.config),
            outputs=("prediction",),
            takes=_TAKES_LATENTS,
            left_out="diffusion steps and guidance (perception.models.diffusion) are torch",
        ),
    )


def _jog3r(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    config, sizes = network.config, network.config.stdit
    _check_latents(sizes, image_size)
    if config.decoders != "pairs":
        raise ConfigError("config: only the decoders of pairs are exported; the one of whole clips runs in torch, take --config pairs")
    grid = sizes.grid[1:]

    def video(net: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        tokens, told = net.embed(*inputs)
        tapped = net.run_blocks(tokens, told, 0, config.feature_block + 1)
        prediction = net.predict(net.run_blocks(tapped, told, config.feature_block + 1, sizes.depth), told)
        return prediction, tapped.unflatten(1, (sizes.num_frames, -1))

    def features(_: Sequence[Tensor], rows: int) -> list[Run]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(batch, grid[0] * grid[1], sizes.hidden_dim) for batch in dict.fromkeys((1, min(rows, 2)))]
        return [{f"features{index}": torch.randn(shape, generator=generator) for index in (1, 2)} for shape in shapes]

    return (
        GraphPart(
            model=f"{title}.video",
            module=_Function(network.stdit, video),
            runs=_noise(sizes),
            outputs=("prediction", "features"),
            takes=_TAKES_LATENTS,
            left_out="diffusion steps and guidance (perception.models.diffusion) are torch",
        ),
        GraphPart(
            model=f"{title}.decoders",
            module=_Function(network.dust3r, lambda net, first, other: tuple(net.point_maps(first, other, grid, grid))),
            runs=features,
            outputs=_PAIR_OUTPUTS,
            takes="features1 and features2 are the video part's features of the first and another frame, a pair in each row",
            left_out="alignment of several pairs (perception.geometry) is torch",
            float32=("network.downstream_head1", "network.downstream_head2"),
        ),
    )


def _cotracker3(network: Any, image_size: tuple[int, int], title: str) -> tuple[GraphPart, ...]:
    config = network.config
    if any(side < _COTRACKER_STRIDE_PX or side % _COTRACKER_STRIDE_PX for side in image_size):
        raise ConfigError(f"image_size = {image_size[0]} {image_size[1]}: sides must be multiples of {_COTRACKER_STRIDE_PX} px for this network")
    left_out = "gathering of patches at the points' places and the loop of corrections run in torch (CoTracker3.refine)"

    def normal(name: str, *sides: int) -> Callable[[Sequence[Tensor], int], list[Run]]:
        counts = (1, _NUM_POINTS_COMPARED)
        return lambda _, rows: [{name: torch.randn(count, *sides, generator=torch.Generator().manual_seed(count))} for count in counts]

    return (
        GraphPart(
            model=f"{title}.encoder",
            module=_Function(network.fnet, lambda encoder, images: encoder(images)),
            runs=lambda images, rows: [{"images": 2 * batch - 1} for batch in in_batches(images, rows)],
            outputs=("features",),
            takes="images are RGB in [-1, 1]",
            left_out=left_out,
        ),
        GraphPart(
            model=f"{title}.correlations",
            module=_Function(network.corr_mlp, lambda mlp, values: mlp(values)),
            runs=normal("correlations", config.correlation_size),
            outputs=("tokens",),
            takes="correlations of the patches around queries and estimates, a point, frame and level in each row",
            left_out=left_out,
            max_rows=_MAX_POINTS * config.window_frames,
        ),
        GraphPart(
            model=f"{title}.transformer",
            module=_Function(network.updateformer, lambda transformer, tokens: transformer(tokens[None])[0]),
            runs=normal("tokens", config.window_frames, config.token_dim),
            outputs=("corrections",),
            takes=f"tokens of the points in a window of {config.window_frames} frames, a point in each row",
            left_out=left_out,
            max_rows=_MAX_POINTS,
        ),
    )


GRAPHS: dict[str, Callable[[Any, tuple[int, int], str], tuple[GraphPart, ...]]] = {
    "cotracker3_offline": _cotracker3,
    "cotracker3_online": _cotracker3,
    "croco_v2": _croco,
    "dust3r_224_linear": _dust3r,
    "dust3r_512_dpt": _dust3r,
    "dust3r_512_linear": _dust3r,
    "jog3r": _jog3r,
    "pi3": _pi3,
    "stdit": _stdit,
    "trajvg": _trajvg,
}
"""Network → its graphs for one image size: (network in eval mode, (height, width), title of network and weights)."""
