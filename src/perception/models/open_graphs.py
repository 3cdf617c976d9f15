"""The graphs of one network that are open, one for each image size, as many as may take a share of the machine's memory.

A search over a pyramid of scales runs the network on ten and more sizes in each frame. Opening a graph again takes ten times as long as running it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from perception.backends.backend import Backend

Size = tuple[int, int]
_SHARE_OF_MEMORY = 1 / 8
_ALWAYS_OPEN = 3
"""So many stay open however large they are: the sizes that a pipeline with one or two cameras takes turns with."""
_STATM = Path("/proc/self/statm")


class OpenGraphs:
    """Keeps those used last. What each takes is measured, since no runtime tells: by how much its opening and first run made the process grow.

    weights_bytes: counted at least for each, as a runtime may fill memory that another left · limit_bytes: for all together.
    """

    def __init__(self, device: torch.device, weights_bytes: int, limit_bytes: int | None = None) -> None:
        self._device, self._weights_bytes = device, weights_bytes
        self._limit_bytes = int(memory_bytes(device) * _SHARE_OF_MEMORY) if limit_bytes is None else limit_bytes
        self._graphs: OrderedDict[Size, Backend] = OrderedDict()
        self._taken: dict[Size, int] = {}
        self._before: dict[Size, int] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, size: Size, opened: Callable[[], Backend]) -> Backend:
        """The graph for (height, width), opened now where it is not open."""
        if size in self._graphs:
            self._graphs.move_to_end(size)
        else:
            self.put(size, opened)
        return self._graphs[size]

    def put(self, size: Size, opened: Callable[[], Backend]) -> None:
        """Open a graph in place of the one that there may be for this size."""
        before = used_bytes(self._device)
        graph = opened()
        replaced = self._graphs.pop(size, None)
        if replaced is not None:
            replaced.close()
        self._graphs[size], self._before[size] = graph, before

    def settle(self, size: Size) -> None:
        """To be called after each run: counts what a graph takes after its first one, and closes those that are too many."""
        if size not in self._before:
            return
        self._taken[size] = max(self._weights_bytes, used_bytes(self._device) - self._before.pop(size))
        while len(self._graphs) > _ALWAYS_OPEN and sum(self._taken.values()) > self._limit_bytes:
            forgotten, oldest = self._graphs.popitem(last=False)
            self._taken.pop(forgotten, None)
            self._before.pop(forgotten, None)
            oldest.close()


def used_bytes(device: torch.device) -> int:
    """What this process, or of a GPU all of them, has in use; 0 where nobody knows."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total - free)
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def memory_bytes(device: torch.device) -> int:
    """What there is altogether."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
