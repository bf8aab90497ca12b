"""Is there room for a model? Asked before it is filled: a machine out of memory kills the process without a word."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from glm_train.errors import CheckpointError

_MEMINFO = Path("/proc/meminfo")


def require_memory(module: nn.Module, itemsize: int, device: torch.device, place: Path) -> None:
    """Raise `CheckpointError` where `module`, at `itemsize` bytes a number, cannot fit on `device`.

    Only what is certain counts: memory that is neither used nor can be freed. `place` is the folder, for the message.
    """
    needed = itemsize * sum(parameter.numel() for parameter in module.parameters())
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise CheckpointError(
            f"{place}: the model takes {_gb(needed)} in this dtype, {device} has {_gb(free)} free. Load it in a "
            "smaller dtype (dtype='bfloat16'), or where there is more memory."
        )


def _free_bytes(device: torch.device) -> int | None:
    """Free bytes, or None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and _MEMINFO.exists():
        found = re.findall(r"^(?:MemAvailable|SwapFree):\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
        return 1024 * sum(int(size) for size in found) if found else None
    return None


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
