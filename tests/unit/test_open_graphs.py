"""Graphs of many image sizes stay open as long as memory allows, and what a size has cost outlives its graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from perception.core.errors import WeightsError
from perception.models import background_build, network_extractor, open_graphs
from perception.models.background_build import ExpectedWay
from perception.models.extractor import ExtractorConfig
from perception.models.nano import NanoNetwork
from perception.models.open_graphs import OpenGraphs, memory_bytes, used_bytes
from perception.models.registry import create_extractor

CPU = torch.device("cpu")
SIZES = [(32 * side, 48) for side in range(1, 11)]


class Graph:
    """Stands for an open graph."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Machine:
    """Memory in use, as the graphs under test find it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = 1000
        monkeypatch.setattr(open_graphs, "used_bytes", lambda _: self.used)

    def run(self, graphs: OpenGraphs, size: tuple[int, int], opening: int = 0, first_run: int = 0) -> Graph:
        """Open a graph that takes so much (where it is not open), run it, and settle."""

        def opened() -> Any:
            self.used += opening
            return Graph()

        is_new = len(graphs)
        graph: Any = graphs.get(size, opened)
        self.used += first_run if len(graphs) > is_new else 0
        graphs.settle(size)
        return graph  # type: ignore[no-any-return]


def test_graphs_stay_open_up_to_the_limit_and_the_oldest_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, graphs = Machine(monkeypatch), OpenGraphs(CPU, weights_bytes=1, limit_bytes=100)
    made = [machine.run(graphs, size, opening=15, first_run=5) for size in SIZES[:5]]  # 5 times 20 are just the limit
    assert not any(graph.closed for graph in made)
    assert machine.run(graphs, SIZES[0]) is made[0], "not opened again, and now the newest"
    machine.run(graphs, SIZES[5], opening=15, first_run=5)
    assert [graph.closed for graph in made] == [False, True, False, False, False]
    assert len(graphs) == 5
    machine.run(graphs, SIZES[6], opening=55)  # closes three, not one
    assert [graph.closed for graph in made] == [False, True, True, True, True]


def test_three_sizes_stay_open_however_large_and_weights_count_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, graphs = Machine(monkeypatch), OpenGraphs(CPU, weights_bytes=60, limit_bytes=100)
    made = [machine.run(graphs, size, opening=-5) for size in SIZES[:4]]  # the library gave memory back meanwhile
    assert [graph.closed for graph in made] == [True, False, False, False]


def test_a_graph_put_in_the_place_of_another_closes_it_and_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, graphs = Machine(monkeypatch), OpenGraphs(CPU, weights_bytes=25, limit_bytes=100)
    first, *others = [machine.run(graphs, size) for size in SIZES[:4]]
    faster: Any = Graph()
    graphs.put(SIZES[0], lambda: faster)
    assert first.closed
    assert machine.run(graphs, SIZES[0]) is faster
    assert not any(graph.closed for graph in others)


def test_a_graph_that_cannot_be_opened_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, graphs = Machine(monkeypatch), OpenGraphs(CPU, weights_bytes=25, limit_bytes=100)
    good = machine.run(graphs, SIZES[0])

    def broken() -> Any:
        raise WeightsError("damaged")

    with pytest.raises(WeightsError, match="damaged"):
        graphs.put(SIZES[0], broken)
    assert machine.run(graphs, SIZES[0]) is good
    assert not good.closed


def test_memory_of_this_machine_is_known() -> None:
    before = used_bytes(CPU)
    held = np.ones(64 << 20, np.uint8)
    assert 0.9 * held.nbytes < used_bytes(CPU) - before < 2 * held.nbytes
    assert used_bytes(CPU) < memory_bytes(CPU) < 1 << 45


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes in the order in which graphs were opened for them."""
    found: list[tuple[int, int]] = []
    open_case = network_extractor.open_case

    def counted(network: Any, name: str, case: Any, device: torch.device) -> Any:
        found.append((case.height, case.width))
        return open_case(network, name, case, device)

    monkeypatch.setattr(network_extractor, "open_case", counted)
    return found


def extract_all(extract: Callable[..., Any], sizes: list[tuple[int, int]]) -> None:
    for size in sizes:
        extract(np.zeros((*size, 3), np.uint8))


def test_a_pyramid_of_ten_sizes_opens_each_graph_once(openings: list[tuple[int, int]]) -> None:
    made = create_extractor(ExtractorConfig(extractor="tiny_nano", backend="torch", precision="float32", device="cpu"))
    for _ in range(3):
        extract_all(made.extract, SIZES)
    assert openings == SIZES


class _Process:
    """Stands for a process that makes a graph; `ends` lets it fail."""

    started: ClassVar[list[_Process]] = []

    def __init__(self, *_: Any, **__: Any) -> None:
        self.returncode: int | None = None
        self.started.append(self)

    def poll(self) -> int | None:
        return self.returncode

    def ends(self) -> None:
        self.returncode = 1


def test_time_that_a_size_has_cost_is_kept_when_its_graph_is_closed_and_one_graph_is_made_at_a_time(
    openings: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneSecond:
        def lap(self) -> float:
            return 1.0

    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    monkeypatch.setattr(network_extractor, "expected_way", lambda *_: ExpectedWay("openvino", "float32", 1e9))
    monkeypatch.setattr(network_extractor, "Stopwatch", OneSecond)
    monkeypatch.setattr(NanoNetwork, "any_size", False)
    monkeypatch.setattr(open_graphs, "_SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(background_build.subprocess, "Popen", _Process)
    monkeypatch.setattr(_Process, "started", [])
    made = create_extractor(ExtractorConfig(extractor="tiny_nano", device="cpu"))
    sizes = SIZES[:5]
    for _ in range(int(background_build.BUILD_S)):
        extract_all(made.extract, sizes)
    assert len(openings) == len(sizes) * int(background_build.BUILD_S), "five sizes take turns in three places"
    assert not _Process.started
    extract_all(made.extract, sizes)
    assert len(_Process.started) == 1, "all five are due"
    _Process.started[0].ends()
    extract_all(made.extract, sizes)
    assert len(_Process.started) == 2
