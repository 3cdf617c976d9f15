"""What the data types refuse, and the figures of a stream."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.timing import Stopwatch, StreamStatistics
from perception.core.types import Camera, Frame

CAMERA = Camera(640, 480, 500.0, 510.0, 319.5, 239.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "size 0x480"),
        ({"fx": 0.0}, "focal length"),
        ({"fy": -1.0}, "focal length"),
        ({"cx": math.nan}, "cx = nan"),
        ({"fx": math.inf}, "fx = inf"),
        ({"distortion_model": "thin_prism"}, "plumb_bob"),
        ({"distortion_model": "plumb_bob", "distortion": (0.1,)}, "4 or 5"),
        ({"distortion_model": "equidistant", "distortion": (0.1, 0.0, 0.0, math.nan)}, "finite"),
    ],
)
def test_cameras_that_cannot_be_are_refused(change, message):
    arguments = {"width": 640, "height": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0, **change}
    with pytest.raises(InputError, match=message):
        Camera(**arguments)


def test_a_resized_camera_sees_the_same_rays_at_the_image_borders():
    half = CAMERA.resized(320, 240)
    for x, x_half in ((-0.5, -0.5), (639.5, 319.5)):
        assert_close((x - CAMERA.cx) / CAMERA.fx, (x_half - half.cx) / half.fx)
    assert Camera.from_matrix(CAMERA.matrix, 640, 480) == CAMERA


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((480, 640), np.uint8)}, r"\(480, 640\)"),
        ({"image": np.zeros((480, 640, 3), np.float32)}, "float32"),
        ({"image": np.zeros((0, 640, 3), np.uint8)}, "positive size"),
        ({"image": np.zeros((240, 320, 3), np.uint8), "camera": CAMERA}, "320x240.*640x480"),
        ({"image": np.zeros((480, 640, 3), np.uint8), "depth_m": np.zeros((48, 64), np.float32)}, "depth_m"),
        ({"image": np.zeros((480, 640, 3), np.uint8), "mask": np.zeros((640, 480), bool)}, "mask"),
    ],
)
def test_frames_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Frame(time_ns=0, **arguments)


def test_statistics_of_a_stream():
    statistics = StreamStatistics(window=4)
    assert math.isnan(statistics.latency_s(0.5))
    assert statistics.rate_hz() == 0.0
    for i in range(6):
        statistics.finished(latency_s=0.01 * i, now_s=0.5 * i)
    assert statistics.latency_s(0.5) == pytest.approx(0.035)
    assert statistics.latency_s(1.0) == pytest.approx(0.05)
    assert statistics.rate_hz() == pytest.approx(2.0)
    assert statistics.counts() == {"processed": 6}


def test_counters_lose_nothing_between_threads():
    statistics = StreamStatistics()
    threads = [threading.Thread(target=lambda: [statistics.count("dropped") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statistics.counts() == {"dropped": 2000}


def test_a_stopwatch_starts_again_at_each_lap():
    watch = Stopwatch()
    assert watch.lap() >= 0.0
    assert 0.0 <= watch.lap() < 1.0
