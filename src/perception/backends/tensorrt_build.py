"""Engines of TensorRT and TensorRT-RTX from ONNX graphs: strongly typed, one optimisation profile over the batch.

TensorRT-RTX builds ahead of time and needs no GPU; TensorRT times kernels on the GPU it builds for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception.backends.tensorrt_library import RTX_TARGETS, TensorRtLibrary, compute_target
from perception.core.errors import ConfigError, WeightsError

_WAYS_OUT = {
    "Resize": "work out what depends on the image size only in `prepare`, in torch, so that it becomes a constant (antialiased resizing is refused)",
    "NonZero": "replace boolean masks by torch.where or by multiplying with the mask",
    "ScatterElements": "replace scatter_add by index_put or a matrix product",
    "Det": "work out the determinant in torch, outside the network",
    "Unique": "split the network there and run unique in torch",
}
_NUM_SHOWN_ERRORS = 3
_FP8_TARGETS = ("SM89", "SM120", "SM121")
"""Those with products of float8 in hardware."""


class AttentionKernelError(WeightsError):
    """The library has no kernel for the attention operator in this width and number type; split into products it can be built."""


def rtx_targets(precision: str, mixed: bool = False) -> tuple[str, ...]:
    """What an engine of TensorRT-RTX is built for here: the GPU in this machine, or without one all that take the precision. This library has neither
    float32 matrix products nor bfloat16 on SM75; int8 leaves some products in float32; float8 needs Ada or later.

    mixed: the network has products in float32, whatever the precision.
    Raises ConfigError for a GPU that it does not serve.
    """
    present = compute_target()
    exact = precision != "fp16" or mixed
    allowed = _FP8_TARGETS if precision == "fp8" else tuple(target for target in RTX_TARGETS if target != "SM75" or not exact)
    if not present:
        return allowed
    if present not in RTX_TARGETS:
        raise ConfigError(f"backend = 'tensorrt_rtx': serves {', '.join(RTX_TARGETS)}, this GPU is {present}; use backend = 'tensorrt'")
    if present not in allowed:
        if mixed:
            raise ConfigError(f"backend = 'tensorrt_rtx': has no float32 products on {present}, which this network needs; run it by torch")
        raise ConfigError(f"precision = {precision!r}: tensorrt_rtx has none on {present}; use --precision fp16")
    return (present,)


def build_engine(library: TensorRtLibrary, graph: Path, target: Path, max_batch: int, targets: tuple[str, ...] = (), exact: bool = False) -> None:
    """Build the graph, whose inputs have a batch of 1 or one that is free up to `max_batch`, and write the serialised engine.

    targets: of TensorRT-RTX; TensorRT builds for the GPU in use · exact: float32 products are not rounded to TF32 (10 bits).
    Raises WeightsError that names the node that the parser refuses and the way out, or quotes the builder.
    """
    trt = library.trt
    if not library.is_rtx and not compute_target():
        raise ConfigError("backend = 'tensorrt': builds on the GPU it is to run on, and torch finds none; use backend = 'openvino' or 'onnxruntime'")
    library.messages()
    builder = trt.Builder(library.logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(graph)):
        raise WeightsError(f"{graph}: {library.name} {library.version} refuses it: {_parser_errors(parser)}")
    _let_attention_be_split(trt, network)
    config = builder.create_builder_config()
    if exact:
        config.clear_flag(trt.BuilderFlag.TF32)
    _set_profile(builder, network, config, max_batch)
    if library.is_rtx:
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
                raise ConfigError(f"backend = 'tensorrt_rtx': version {library.version} does not build for {name}: {library.messages()}")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = library.messages()
        kind = AttentionKernelError if "Attention operation was not supported" in reason else WeightsError
        raise kind(
            f"{graph}: {library.name} {library.version} cannot build it ({reason[:500] or 'no reason given'}); "
            "a smaller --image-size or --max-batch may fit, or use backend = 'torch'"
        )
    target.write_bytes(engine)


def _network_flags(trt: Any) -> int:
    """Strongly typed where that must be asked for; later versions know nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _let_attention_be_split(trt: Any, network: Any) -> None:
    """Where the library has no kernel for attention of some width and number type in one piece, it may take several. Not all versions can be told."""
    if not hasattr(trt, "IAttentionInputLayer"):
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # layers of a parsed network have no class of their own
            layer.attention.decomposable = True


def _set_profile(builder: Any, network: Any, config: Any, max_batch: int) -> None:
    """1 to max_batch images, tuned for max_batch; a graph of fixed batch needs none."""
    profile = builder.create_optimization_profile()
    free = [tensor for tensor in map(network.get_input, range(network.num_inputs)) if -1 in tuple(tensor.shape)]
    for tensor in free:
        sides = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *sides), (max_batch, *sides), (max_batch, *sides))
    if free:
        config.add_optimization_profile(profile)


def _parser_errors(parser: Any) -> str:
    """What the parser found, each with its node and the way out where one is known."""
    found = []
    for index in range(min(parser.num_errors, _NUM_SHOWN_ERRORS)):
        error = parser.get_error(index)
        operator = error.node_operator() or "graph"
        where = f"node {error.node()} {error.node_name()} ({operator})".replace("  ", " ")
        way = _WAYS_OUT.get(operator, "rewrite this step with other operators, or run the network with backend = 'torch'")
        found.append(f"{where}: {error.desc().strip()[:300]}; way out: {way}")
    return " | ".join(found) or "no reason given"
