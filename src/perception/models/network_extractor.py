"""A network with its weights as an extractor: fits the image, runs the network on a backend, normalises and places the cells."""

from __future__ import annotations

import logging
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.backends.backend import Backend
from perception.core.errors import PerceptionError
from perception.core.timing import Stopwatch
from perception.core.types import Grid
from perception.models.background_build import BackgroundBuild, built_engine, expected_way, network_identity
from perception.models.extractor import ExtractorConfig, check_image, resolve_device
from perception.models.graph_backends import GraphCase, auto_precision, check_precision, open_case
from perception.models.measurements import fastest, read_measurements
from perception.models.open_graphs import OpenGraphs

_LOG = logging.getLogger(__name__)
_HALF_BYTES = 2


class DenseNetwork(Protocol):
    """An nn.Module from one image (1, 3, height, width) in [0, 1] RGB to raw descriptors (1, dim, rows, cols).

    Sides must be multiples of multiple_px. Cell (row, col) is centred on pixel offset_px + stride_px * (col, row).
    any_size: nothing in it depends on the image size, and `prepare` does nothing: one exported graph serves all sizes and batches.
    """

    dim: int
    multiple_px: int
    stride_px: int
    offset_px: float
    any_size: bool

    def prepare(self, height: int, width: int) -> None:
        """Work out, in float32, all that depends on the image size only, so that it is a constant of the graph."""


class NetworkExtractor:
    """An Extractor over a DenseNetwork, on torch or on a graph exported for each image size. Not safe to share between threads without a lock."""

    def __init__(self, name: str, network: DenseNetwork, config: ExtractorConfig) -> None:
        assert isinstance(network, nn.Module)
        self.name = name
        self.dim = network.dim
        self._network = network
        self._config = config
        self._device = resolve_device(config.device)
        if config.backend != "auto":
            check_precision(config.backend, config.precision)
        self._way: tuple[str, str] | None = None
        self._open = OpenGraphs(self._device, _HALF_BYTES * sum(values.numel() for values in network.parameters()))
        self._build: BackgroundBuild | None = None

    @property
    def network(self) -> DenseNetwork:
        """The network itself, for training and for adapters; must not be changed once an image was extracted."""
        return self._network

    def extract(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Grid]:
        """image (height, width, 3) RGB → (dim, rows, cols) float32 unit descriptors of the cells centred inside the image, and their grid."""
        check_image(image, self.name)
        height, width = image.shape[:2]
        fitted, scale_x, scale_y = self._fitted(image)
        pixels = torch.from_numpy(fitted).permute(2, 0, 1)[None].to(torch.float32).div_(255)
        raw = self._run(fitted, pixels)
        offset, stride = self._network.offset_px, self._network.stride_px
        offset_x, offset_y = ((offset + 0.5) * scale - 0.5 for scale in (scale_x, scale_y))
        stride_x, stride_y = stride * scale_x, stride * scale_y
        rows, cols = (_num_inside(*axis) for axis in ((height, offset_y, stride_y, raw.shape[1]), (width, offset_x, stride_x, raw.shape[2])))
        descriptors = torch.nn.functional.normalize(raw[:, :rows, :cols].float(), dim=0)
        return descriptors, Grid((offset_x, offset_y), (stride_x, stride_y))

    def _run(self, fitted: NDArray[np.uint8], pixels: torch.Tensor) -> torch.Tensor:
        """(dim, rows, cols) as the network gives them; a graph that was made meanwhile runs the next image."""
        size = (fitted.shape[0], fitted.shape[1])
        backend = self._open.get(size, lambda: self._backend(size))
        watch = Stopwatch()
        raw = backend.run({"image": pixels})["tokens"][0]
        self._open.settle(size)
        if self._build is not None:
            faster = self._build.after(size, watch.lap(), fitted)
            if faster is not None:
                self._open.put(size, lambda: faster)
        return raw

    def _fitted(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float, float]:
        """The image with sides the network takes, and how many original pixels one of its pixels spans in x and y."""
        height, width = image.shape[:2]
        unit = self._network.multiple_px
        if self._config.fit == "pad":
            bottom, right = -height % unit, -width % unit
            if bottom or right:
                image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
            return np.ascontiguousarray(image), 1.0, 1.0
        new_height, new_width = (max(1, round(side / unit)) * unit for side in (height, width))
        if (new_height, new_width) == (height, width):
            return np.ascontiguousarray(image), 1.0, 1.0
        shrinks = new_height * new_width < height * width
        resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return resized.astype(np.uint8, copy=False), width / new_width, height / new_height

    def _backend(self, size: tuple[int, int]) -> Backend:
        """The graph for images of this size, opened now."""
        if self._way is None:
            # Once for all sizes: a torch backend changes the number type of the network, from which nothing could be exported any more.
            self._way = self._chosen_way(size)
        built = self._build.opened(size) if self._build is not None else None
        return built or self._opened(GraphCase(*self._way, *size))

    @property
    def runs_on(self) -> str:
        """Backend and number type, such as "openvino bfloat16"; what the config says as long as no image was seen."""
        if self._build is not None and self._build.is_used:
            return self._build.title
        return " ".join(self._way or (self._config.backend, self._config.precision))

    def _chosen_way(self, size: tuple[int, int]) -> tuple[str, str]:
        """Backend and precision of the config; for auto those that were fastest on this machine, without a measurement an engine of this network, or
        torch, beside which a graph may be made."""
        backend, precision = self._config.backend, self._config.precision
        if backend == "auto":
            measured = fastest(read_measurements(), self.name, self._network.stride_px, self._device.type, size, precision)
            if measured is not None:
                return measured.backend, measured.precision
            engine = built_engine(self.name, self._device, size, precision)
            if engine is not None:
                return engine
            expected = expected_way(self._device, precision)
            if expected is not None:
                assert isinstance(self._network, nn.Module)
                identity = network_identity(self._network, self.name)
                self._build = BackgroundBuild(identity, self.name, self._config, expected, self._network.any_size)
            backend = "openvino" if precision == "int8" else "torch"
        return backend, auto_precision(backend, self._device) if precision == "auto" else precision

    def _opened(self, case: GraphCase) -> Backend:
        assert isinstance(self._network, nn.Module)
        try:
            return open_case(self._network, self.name, case, self._device)
        except PerceptionError as error:
            if self._config.backend != "auto" or case.backend == "torch" or self._config.precision == "int8":
                raise
            # A robot goes on with what always works when a graph that was measured once is gone.
            _LOG.warning("backend = 'auto': %s was the fastest, but %s; torch runs %s instead", case.title, error, self.name)
            self._way = "torch", auto_precision("torch", self._device)
            return open_case(self._network, self.name, GraphCase(*self._way, case.height, case.width), self._device)


def _num_inside(side_px: int, offset_px: float, stride_px: float, num_cells: int) -> int:
    """How many of the cells are centred inside the original image; at least one."""
    return max(1, min(num_cells, int(np.floor((side_px - 0.5 - offset_px) / stride_px + 1e-9)) + 1))
