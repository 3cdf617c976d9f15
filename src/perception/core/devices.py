"""What the processors of this machine compute in hardware."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices have instructions of their own there: CUDA from Ampere on, CPUs with AMX or AVX-512-BF16.

    Without them they are emulated and many times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
