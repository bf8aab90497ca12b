"""A module without memory and without first values, to be filled from files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)
# A mode sees `nn.init`'s functions whole, and the methods where they are called by themselves.
_FIRST_VALUES = (Tensor.normal_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.uniform_)


class _NoFirstValues(TorchFunctionMode):
    """Passes over what gives a tensor without memory its first values.

    It would compute nothing, but the first `normal_` on the meta device imports eight hundred modules, in a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FIRST_VALUES:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def unfilled(build: Callable[..., Module], *args: Any) -> Module:
    """`build(*args)` on the meta device: shapes and dtypes alone, in no memory and almost no time."""
    with torch.device("meta"), _NoFirstValues():
        return build(*args)
