"""Pictures of benchmark scores as PNG bytes, drawn without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perception.viz.colors import PALETTE, hex_color

_DPI = 144
_MAX_LEVEL_LETTERS, _MAX_WRITTEN_BARS, _MAX_INCH = 60, 24, 13.0
_TEXT, _GRID = "#24292f", "#e3e6ea"


@dataclass(frozen=True)
class Line:
    """A named series; y may be NaN where there is nothing."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_plot(lines: Sequence[Line], x_label: str, y_label: str, y_range: tuple[float, float] | None = None) -> bytes:
    """Lines with a dot at each value."""
    figure, (ax,) = _axes(1, (6.0, 3.6))
    for index, line in enumerate(lines):
        known = np.isfinite(line.y)
        color = hex_color(PALETTE[index % len(PALETTE)])
        ax.plot(np.asarray(line.x)[known], np.asarray(line.y)[known], color=color, marker="o", markersize=4, linewidth=1.8, label=line.name)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    if y_range is not None:
        ax.set_ylim(*y_range)
    ax.legend(fontsize=8, frameon=False)
    return _png(figure)


def bar_plot(groups: Sequence[str], series: Sequence[Line], y_label: str, y_range: tuple[float, float] | None = None) -> bytes:
    """Bars side by side for each group; `series[i].y` has one value for each group, `x` is not looked at."""
    figure, (ax,) = _axes(1, (min(_MAX_INCH, max(6.0, 0.45 * len(groups) * len(series) + 2.0)), 3.6))
    width = 0.8 / max(1, len(series))
    for index, line in enumerate(series):
        places = np.arange(len(groups)) - 0.4 + (index + 0.5) * width
        heights = np.nan_to_num(np.asarray(line.y, np.float64))
        bars = ax.bar(places, heights, 0.92 * width, color=hex_color(PALETTE[index % len(PALETTE)]), label=line.name)
        if len(groups) * len(series) <= _MAX_WRITTEN_BARS:
            ax.bar_label(bars, fmt="%.2g" if heights.max(initial=0.0) <= 1 else "%.1f", fontsize=6, color=_TEXT)
    is_short = sum(map(len, groups)) < _MAX_LEVEL_LETTERS
    ax.set_xticks(range(len(groups)), groups, rotation=0 if is_short else 60, ha="center" if is_short else "right")
    ax.set_ylabel(y_label)
    if y_range is not None:
        ax.set_ylim(*y_range)
    if len(series) > 1:
        ax.legend(fontsize=8, frameon=False, ncols=min(4, len(series)))
    return _png(figure)


@dataclass(frozen=True)
class Scatter:
    """One panel: points with names, and the labels of its axes."""

    title: str
    x_label: str
    y_label: str
    names: Sequence[str]
    x: Sequence[float]
    y: Sequence[float]
    reversed_y: bool = False
    """Draw smaller values higher, for figures of which less is better."""


def scatter_panels(panels: Sequence[Scatter]) -> bytes:
    """Panels side by side; each name has one colour in all of them."""
    figure, axes = _axes(len(panels), (3.6 * len(panels) + 0.6, 3.6))
    names = sorted({name for panel in panels for name in panel.names})
    colors = {name: hex_color(PALETTE[index % len(PALETTE)]) for index, name in enumerate(names)}
    for ax, panel in zip(axes, panels, strict=True):
        for name, x, y in zip(panel.names, panel.x, panel.y, strict=True):
            ax.plot(x, y, "o", color=colors[name], markersize=7)
            ax.annotate(name, (x, y), (5, 4), textcoords="offset points", fontsize=7, color=_TEXT)
        ax.margins(0.2)
        if panel.reversed_y:
            ax.invert_yaxis()
        ax.set_title(panel.title, fontsize=9, color=_TEXT)
        ax.set_xlabel(panel.x_label)
        ax.set_ylabel(panel.y_label)
    return _png(figure)


def _axes(columns: int, size_inch: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size_inch, dpi=_DPI, facecolor="#ffffff", layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, squeeze=False).ravel())
    for ax in axes:
        ax.grid(color=_GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(colors=_TEXT, labelsize=8, length=0)
        ax.spines[:].set_visible(False)
        for label in (ax.xaxis.label, ax.yaxis.label):
            label.set(color=_TEXT, fontsize=9)
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
