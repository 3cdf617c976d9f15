"""The figure of `perception bench`: time of each way to run a network, and what share of the machine's matrix peak it reaches."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perception.models.measurements import MIN_COSINE, Measurement
from perception.viz.colors import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Color, hex_color

_COLORS: dict[str, Color] = {
    "torch": GREY,
    "torch_compiled": ORANGE,
    "onnxruntime": PURPLE,
    "openvino": SKY,
    "tensorrt": GREEN,
    "tensorrt_rtx": BLUE,
}
_DPI = 144
_ROW_INCH, _EDGE_INCH = 0.32, 1.3


def backend_plot(rows: Sequence[Measurement], title: str) -> bytes:
    """PNG: bars of the median with the 95th percentile, frames per second and cosine beside them; right the share of the matrix peak."""
    figure = Figure(figsize=(11, _EDGE_INCH + _ROW_INCH * len(rows)), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    times, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.2))
    several = len({(row.height, row.width, row.batch) for row in rows}) > 1
    for place, row in enumerate(rows):
        color = hex_color(_COLORS.get(row.backend, GREY))
        times.barh(place, row.median_ms, color=color, height=0.7)
        times.plot([row.median_ms, row.p95_ms], [place, place], color="#24292f", linewidth=1)
        times.plot(row.p95_ms, place, "|", color="#24292f", markersize=8)
        exact = row.min_cosine >= MIN_COSINE
        times.annotate(
            f"{row.frames_per_s:.3g} frames/s · cosine ≥ {_floored(row.min_cosine)}",
            (max(row.median_ms, row.p95_ms), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#24292f" if exact else hex_color(VERMILION),
        )
        percent = 100 * row.matrix_share
        shares.barh(place, percent, color=color, height=0.7)
        shares.annotate(f"{percent:.0f} %", (percent, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    labels = [f"{row.backend} {row.precision}" + (f"\n{row.height}×{row.width}, batch {row.batch}" if several else "") for row in rows]
    times.set_yticks(range(len(rows)), labels, fontsize=8)
    times.invert_yaxis()
    times.set_xlabel("median time of a batch, ms (line: 95th percentile)", fontsize=9)
    times.set_xlim(0, 1.4 * max(row.p95_ms for row in rows))
    shares.set_xlabel("% of the matrix peak of the type", fontsize=9)
    shares.set_xlim(0, 1.25 * max(1.0, *(100 * row.matrix_share for row in rows)))
    figure.suptitle(title, fontsize=10)
    for axes in (times, shares):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
        axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _floored(cosine: float) -> str:
    """Never rounded up to 1."""
    return f"{int(cosine * 1e4) / 1e4:.4f}" if cosine == cosine else "?"
