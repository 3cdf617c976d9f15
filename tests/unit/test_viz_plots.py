"""Plots: valid PNG of a useful size for every kind of input, marks where they belong."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from perception.viz.plots import DARK, LIGHT, ErrorSeries, confidence_over_time, cumulative_errors, error_over_time, latency, top_view

TIME_S = np.linspace(0, 5, 20)
SOME = ErrorSeries("mug", TIME_S, np.linspace(0.5, 20, 20), np.where(np.arange(20) % 4 == 0, np.inf, 2.0))
MISSED = ErrorSeries("box", TIME_S, np.full(20, np.inf), np.full(20, np.inf))
NONE = ErrorSeries("none", np.zeros(0), np.zeros(0), np.zeros(0))
PERFECT = ErrorSeries("one", np.zeros(1), np.zeros(1), np.zeros(1))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def has_color(image: np.ndarray, rgb: tuple[int, int, int]) -> bool:
    return bool((np.abs(image - rgb).max(axis=2) < 12).sum() > 10)


@pytest.mark.parametrize("series", [[], [NONE], [PERFECT], [MISSED], [SOME, MISSED, PERFECT]])
@pytest.mark.parametrize("plot", [error_over_time, cumulative_errors])
def test_error_plots_of_any_series(plot: object, series: list[ErrorSeries]) -> None:
    image = pixels(plot(series))  # type: ignore[operator]
    assert image.shape[1] > 1000
    assert has_color(image, (255, 255, 255))


def test_missed_frames_are_marked() -> None:
    assert has_color(pixels(error_over_time([MISSED])), (213, 94, 0))
    assert not has_color(pixels(error_over_time([PERFECT])), (213, 94, 0))


def test_theme_sets_the_paper() -> None:
    assert pixels(error_over_time([SOME], LIGHT))[0, 0].tolist() == [255, 255, 255]
    assert pixels(error_over_time([SOME], DARK))[0, 0].tolist() == [0x16, 0x1B, 0x22]


@pytest.mark.parametrize("values_s", [np.zeros(0), np.full(20, np.nan), np.linspace(0.01, 0.2, 20)])
def test_latency(values_s: np.ndarray) -> None:
    image = pixels(latency(TIME_S[: len(values_s)], values_s, values_s * 1.2))
    assert has_color(image, (86, 180, 233)) == (len(values_s) > 0 and np.isfinite(values_s).all())


def test_confidence_and_top_view() -> None:
    assert pixels(confidence_over_time(TIME_S, np.full(20, np.nan), np.zeros(20))).size
    true_m = np.stack([np.cos(TIME_S), np.sin(TIME_S)], axis=1)
    estimated_m = np.where(np.arange(20)[:, None] == 3, np.nan, true_m + 0.02)
    estimated_m[5] = 1e6
    assert has_color(pixels(top_view(true_m, estimated_m, ("x (m)", "z (m)"))), (230, 159, 0))
    assert pixels(top_view(np.zeros((0, 2)), np.zeros((0, 2)), ("x (m)", "z (m)"))).size
