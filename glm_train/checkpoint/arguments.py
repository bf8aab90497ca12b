"""What users write for a dtype, a device or a size, in our words and in transformers'."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from glm_train.errors import CheckpointError, ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# Arguments of transformers' `from_pretrained` that have no place here, and why.
_FOREIGN = {
    "trust_remote_code": "no code of a model folder is ever run; leave it out",
    "low_cpu_mem_usage": "loading always takes one tensor at a time; leave it out",
    "use_safetensors": "only safetensors are read; leave it out",
    "attn_implementation": "leave it out, or choose with set_attention of the loaded model's body",
    "ignore_mismatched_sizes": "weights that do not fit are always refused",
    "quantization_config": "quantised loading is not supported",
    "load_in_8bit": "quantised loading is not supported",
    "load_in_4bit": "quantised loading is not supported",
    "cache_dir": "set HF_HOME in the environment",
    "token": "set HF_TOKEN in the environment",
}


def refuse_foreign(names: Iterable[str]) -> None:
    """Raise `ConfigError` for arguments that transformers has and we do not."""
    if faults := [f"{name}: {_FOREIGN[name]}" for name in names if name in _FOREIGN]:
        raise ConfigError("\n".join(faults))


def read_dtype(value: Any, torch_dtype: Any = None) -> torch.dtype | None:
    """The dtype that one of the two names; None for "auto" and where both are None. Raises `CheckpointError`."""
    value = _one("dtype", value, "torch_dtype", torch_dtype)
    if value is None or value == "auto":
        return None
    name = str(value).removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in _DTYPES:
        raise CheckpointError(f"dtype {value!r}: expected one of {', '.join([*_DTYPES, *_SHORT])} or auto")
    return _DTYPES[name]


def read_device(value: Any, device_map: Any = None) -> torch.device:
    """The device that one of the two names, which is there; the CPU where both are None. Raises
    `CheckpointError`."""
    value = _one("device", value, "device_map", device_map)
    if value is None:
        return torch.device("cpu")
    if value == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise CheckpointError(
            f"device {value!r}: expected one device, such as cpu, cuda or cuda:1, or auto. "
            "A model spread over several devices by layer is not supported."
        ) from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"device {value!r}: torch cannot use it here: {reason}") from None
    return device


def read_bytes(size: int | str) -> int:
    """`5GB` is 5e9 bytes and `5GiB` 5 * 2**30, as in transformers; a number is bytes. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]I?B)", str(size).upper(), re.ASCII)
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    if found is None:
        raise ValueError(
            f"max_shard_size {size!r}: expected a number of bytes, or text such as 5GB or 500MiB"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def _one(name: str, value: Any, other_name: str, other: Any) -> Any:
    """The one of two values that is given: they are names for one thing."""
    if value is not None and other is not None:
        raise CheckpointError(f"{name} and {other_name} are two names for one thing; give one of them")
    return other if value is None else value
