"""The number format of matrix products."""

from __future__ import annotations

import os

import torch

from perception.core.devices import multiplies_bfloat16
from perception_training.loop.config import TrainConfig


def compute_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """bfloat16 where it is asked for, or left to us and computed by the hardware; otherwise float32."""
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def prepare_torch(config: TrainConfig) -> None:
    """What holds for the whole process."""
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits only with a workspace of fixed size
    torch.use_deterministic_algorithms(config.deterministic)
