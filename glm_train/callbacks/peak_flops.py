"""The dense bf16 peak of GPUs, from their makers' data sheets, for model FLOPs utilisation."""

from __future__ import annotations

# Looked up in this order: a longer name stands before the one it contains. FLOP/s.
_PEAKS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("A10G", 70e12),
    ("L4", 121e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
)


def peak_flops(device_name: str) -> float | None:
    """FLOP/s of the device, or None for one that is not in the table: no utilisation is better than a wrong one."""
    return next((peak for name, peak in _PEAKS if name.lower() in device_name.lower()), None)
