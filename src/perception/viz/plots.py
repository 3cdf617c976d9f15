"""Figures of a report as PNG bytes, drawn without a screen. A missed frame is a mark at the foot of the plot, never a gap without a word."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from perception.viz.colors import GREY, ORANGE, PALETTE, SKY, VERMILION, hex_color

_DPI = 144


@dataclass(frozen=True)
class PlotTheme:
    """Colours of paper, text and grid lines, as `#rrggbb`."""

    paper: str
    text: str
    grid: str


LIGHT = PlotTheme("#ffffff", "#24292f", "#e3e6ea")
DARK = PlotTheme("#161b22", "#e6edf3", "#30363d")


@dataclass(frozen=True, eq=False)
class ErrorSeries:
    """Errors of one object over time. time_s (num,) · rotation_deg, translation_cm (num,), infinite where there was no estimate."""

    name: str
    time_s: NDArray[np.float64]
    rotation_deg: NDArray[np.float64]
    translation_cm: NDArray[np.float64]


@contextmanager
def _figure(size_inch: tuple[float, float], columns: int, rows: int, theme: PlotTheme) -> Iterator[tuple[Figure, list[Axes], io.BytesIO]]:
    """Axes in the theme's colours; what was drawn lies in the stream after the block."""
    figure = Figure(figsize=size_inch, dpi=_DPI, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax in axes:
        ax.set_facecolor(theme.paper)
        ax.grid(color=theme.grid, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", colors=theme.text, labelsize=9, length=0)
        ax.spines[:].set_visible(False)
        ax.spines["bottom"].set(visible=True, color=theme.grid)
        for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
            label.set(color=theme.text, fontsize=10)
    stream = io.BytesIO()
    yield figure, axes, stream
    for ax in axes:
        legend = ax.get_legend()
        if legend is not None:
            for text in legend.get_texts():
                text.set_color(theme.text)
    figure.savefig(stream, format="png", facecolor=theme.paper)


def _legend(ax: Axes, place: Literal["best", "upper right", "lower right"] = "best", num_columns: int = 1) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False, loc=place, ncols=num_columns)


def error_over_time(series: Sequence[ErrorSeries], theme: PlotTheme = LIGHT) -> bytes:
    """Translation (cm) and rotation (deg) over time, one colour for each object, logarithmic; missed frames are crosses at the foot."""
    with _figure((9.0, 4.6), 1, 2, theme) as (_, axes, stream):
        for ax, name, unit in zip(axes, ("translation_cm", "rotation_deg"), ("translation error (cm)", "rotation error (deg)"), strict=True):
            found = [getattr(item, name) for item in series]
            known = np.concatenate([values[np.isfinite(values)] for values in found]) if found else np.zeros(0)
            low, high = (max(1e-3, known.min()), max(1e-2, known.max())) if len(known) else (0.1, 10.0)
            foot = low / 2.5
            for index, (item, values) in enumerate(zip(series, found, strict=True)):
                color = hex_color(PALETTE[index % len(PALETTE)])
                shown = np.where(np.isfinite(values), np.maximum(values, low), np.nan)
                ax.plot(item.time_s, shown, color=color, linewidth=1.2, marker="o", markersize=2.8, label=item.name)
            missed_s = np.concatenate([item.time_s[~np.isfinite(values)] for item, values in zip(series, found, strict=True)] or [np.zeros(0)])
            if len(missed_s):
                ax.plot(missed_s, np.full(len(missed_s), foot), "x", color=hex_color(VERMILION), markersize=5, label="no pose")
            ax.set_yscale("log")
            ax.set_ylim(foot / 1.5, high * 2.0)
            ax.yaxis.set_major_formatter("{x:g}")
            ax.set_ylabel(unit)
        axes[0].tick_params(labelbottom=False)
        axes[1].set_xlabel("time (s)")
        _legend(axes[0], "upper right", 4)
    return stream.getvalue()


def cumulative_errors(series: Sequence[ErrorSeries], thresholds: Sequence[float] = (1.0, 3.0, 5.0), theme: PlotTheme = LIGHT) -> bytes:
    """Share of frames below each error, for translation and rotation, up to three times the last threshold; thresholds (cm and deg) are marked."""
    limit = 3.0 * max(thresholds)
    with _figure((9.0, 3.4), 2, 1, theme) as (_, axes, stream):
        for ax, name, unit in zip(axes, ("translation_cm", "rotation_deg"), ("translation error (cm)", "rotation error (deg)"), strict=True):
            for threshold in thresholds:
                ax.axvline(threshold, color=hex_color(GREY), linewidth=0.9, linestyle=(0, (4, 3)))
                ax.annotate(f"{threshold:g}", (threshold, 102), ha="center", va="bottom", fontsize=8, color=theme.text, annotation_clip=False)
            for index, item in enumerate(series):
                values = np.sort(getattr(item, name))
                below = 100.0 * np.arange(len(values) + 1) / max(1, len(values))
                edges = np.concatenate([[0.0], values, [np.inf]])
                heights = np.concatenate([below, below[-1:]])
                keep = edges <= limit
                xs, ys = np.append(edges[keep], limit), np.append(heights[keep], heights[keep][-1])
                ax.step(xs, ys, where="post", color=hex_color(PALETTE[index % len(PALETTE)]), linewidth=1.8, label=item.name)
            ax.set_xlim(0, limit)
            ax.set_ylim(0, 101)
            ax.set_xlabel(unit)
        axes[0].set_ylabel("frames below (%)")
        _legend(axes[1], "lower right")
    return stream.getvalue()


def latency(time_s: NDArray, step_s: NDArray, latency_s: NDArray, theme: PlotTheme = LIGHT) -> bytes:
    """Latency (arrival to publication) and pipeline step over time, and their histograms, in milliseconds. NaN where not measured."""
    with _figure((9.0, 3.2), 2, 1, theme) as (_, axes, stream):
        for name, values_s, color in (("latency", latency_s, ORANGE), ("pipeline step", step_s, SKY)):
            values_ms = 1e3 * np.asarray(values_s, np.float64)
            measured = np.isfinite(values_ms)
            if not measured.any():
                continue
            axes[0].plot(np.asarray(time_s)[measured], values_ms[measured], color=hex_color(color), linewidth=1.2, label=name)
            median_ms = float(np.median(values_ms[measured]))
            bins = np.linspace(0, 1.05 * float(np.nanmax([*(1e3 * np.asarray(latency_s)), *(1e3 * np.asarray(step_s)), 1e-3])), 31).tolist()
            axes[1].hist(values_ms[measured], bins, color=hex_color(color), alpha=0.75, label=f"{name}, median {median_ms:.0f} ms")
        axes[0].set_ylim(bottom=0)
        axes[0].set_xlabel("time (s)")
        axes[0].set_ylabel("milliseconds")
        axes[1].set_xlabel("milliseconds")
        axes[1].set_ylabel("frames")
        axes[1].yaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes[0], "lower right")
        _legend(axes[1])
    return stream.getvalue()


def confidence_over_time(time_s: NDArray, score: NDArray, num_inliers: NDArray, theme: PlotTheme = LIGHT) -> bytes:
    """Score and number of inliers over time, for a stream without truth. NaN where there is no pose."""
    with _figure((9.0, 3.2), 2, 1, theme) as (_, axes, stream):
        for ax, values, name, color in ((axes[0], score, "score", SKY), (axes[1], num_inliers, "inliers", ORANGE)):
            ax.plot(time_s, values, color=hex_color(color), linewidth=1.2, marker="o", markersize=2.8)
            ax.set_xlabel("time (s)")
            ax.set_ylabel(name)
            ax.set_ylim(bottom=0)
        axes[0].set_ylim(0, 1)
    return stream.getvalue()


def top_view(true_m: NDArray, estimated_m: NDArray, labels: tuple[str, str], theme: PlotTheme = LIGHT) -> bytes:
    """Way of a position seen from above: truth as a line, estimates as dots joined to their true place.

    true_m, estimated_m (num, 2) metres, NaN where there is no estimate · labels of the two axes, with unit. Both axes have one scale.
    """
    true_m, estimated_m = np.asarray(true_m, np.float64).reshape(-1, 2), np.asarray(estimated_m, np.float64).reshape(-1, 2)
    with _figure((5.2, 4.6), 1, 1, theme) as (_, (ax,), stream):
        found = np.isfinite(estimated_m).all(axis=1)
        # Estimates far off would shrink the way to a dot: the view is the truth's, widened.
        low, high = (true_m.min(axis=0), true_m.max(axis=0)) if len(true_m) else (np.zeros(2), np.ones(2))
        half = 0.65 * max(float((high - low).max()), 0.05)
        centre = (low + high) / 2
        inside = found & (np.abs(estimated_m - centre) <= half).all(axis=1)
        joins = np.stack([true_m[found], estimated_m[found], np.full((int(found.sum()), 2), np.nan)], axis=1).reshape(-1, 2)
        ax.plot(*joins.T, color=hex_color(GREY), linewidth=0.7)
        ax.plot(*true_m.T, color=hex_color(ORANGE), linewidth=2.0, label="truth")
        ax.plot(*true_m[~found].T, "x", color=hex_color(VERMILION), markersize=6, label="no pose" if (~found).any() else None)
        ax.plot(*estimated_m[found].T, "o", color=hex_color(SKY), markersize=3.5, label="estimate")
        ax.set_xlim(centre[0] - half, centre[0] + half)
        ax.set_ylim(centre[1] - half, centre[1] + half)
        ax.set_aspect("equal")
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        outside = int(found.sum() - inside.sum())
        if outside:
            ax.set_title(f"{outside} of {len(true_m)} estimates lie outside", color=theme.text, fontsize=9)
        _legend(ax)
    return stream.getvalue()
