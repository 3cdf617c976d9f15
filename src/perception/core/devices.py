"""What the processors of this machine compute in hardware."""

from __future__ import annotations

from pathlib import Path

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices have instructions of their own there: CUDA from Ampere on, CPUs with AMX or AVX-512-BF16.

    Without them they are emulated and many times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory that can still be had there: on CUDA also what torch holds unused, on a CPU what Linux calls available. None where nobody knows."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
