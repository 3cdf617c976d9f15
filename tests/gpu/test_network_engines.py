"""Engines of the published networks run on a GPU: equal to torch, with fewer and with more rows than they were made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.small_networks import NETWORKS_AND_SIZES, parts_of, pixels

from perception.backends.backend import open_backend
from perception.backends.tensorrt_build import RTX_TARGETS
from perception.backends.tensorrt_library import compute_target
from perception.models.export import CheckImages, ExportSettings, export_part

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("case", NETWORKS_AND_SIZES)
def test_every_part_equals_torch(case: str, library: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt" if library == "tensorrt" else "tensorrt_rtx_bindings")
    if library == "tensorrt_rtx" and compute_target() not in RTX_TARGETS:
        pytest.skip(f"TensorRT-RTX does not serve {compute_target()}")
    _, _, size, precision = NETWORKS_AND_SIZES[case]
    rng = np.random.default_rng(0)
    images = CheckImages([rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(4)], "noise")
    for part in parts_of(case):
        folder = tmp_path / part.model
        record, _ = export_part(part, ExportSettings(library, precision, size, 3), lambda: images, folder)  # type: ignore[arg-type]
        assert record.accuracy.run_by.startswith(library), "the comparison ran the engine itself"
        backend = open_backend(library, folder)
        for inputs in part.runs(pixels(3, size), 3):
            found = {name: value.cpu() for name, value in backend.run(inputs).items()}
            assert part.agreement([found], [part.run(part.module, inputs)]).mean_cosine > 0.999
        backend.close()
