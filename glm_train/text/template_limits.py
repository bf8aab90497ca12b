"""What one rendering of a foreign chat template may use: steps, processor time, memory, sizes of values.

Python cannot stop a single operation of its own once it runs, so every value is kept small enough that none
takes long, and every operation of a template that makes or walks a value asks the `Meter` of its rendering
first. All limits grow with the conversation that is rendered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

from jinja2.utils import Namespace

# Of processor time, and three more for each million of characters. Half as much again may pass on the wall, where the
# template did run (and the machine was not asleep).
MAX_SECONDS = 1.0
MAX_STEPS = 5_000_000  # nodes of the template that loops, macros and blocks run through
MAX_BYTES = 128 * 1024 * 1024  # of values made by the template and still held
MAX_CHARS = 2_000_000  # of one text
MAX_ITEMS = 200_000  # of one list or object, counted through all levels
MAX_DEPTH = 200  # of lists in lists
MAX_INT_BITS = 4096
_SMALL = 512  # bytes; values up to here are only counted
_CLOCK_EVERY = 1_000_000  # units of work, about a nanosecond each


class LimitError(Exception):
    """A template ran past one of the limits."""


class Once:
    """Values that can be walked through once, in place of a lazy filter's generator, whose work nothing
    bounds. Like a generator it has no length and is true also where it is empty."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self._next = iter(items)

    def __iter__(self) -> Once:
        return self

    def __next__(self) -> Any:
        return next(self._next)


class Meter:
    """The limits of one rendering and what is used of them. `size` is the conversation's: its characters, and
    some for each value."""

    def __init__(self, size: int, max_seconds: float = MAX_SECONDS) -> None:
        self.max_chars = MAX_CHARS + 8 * size
        self.max_items = MAX_ITEMS + size
        self._max_bytes = MAX_BYTES + 32 * size
        self._seconds = max_seconds * (1 + 3 * size / 1_000_000)
        self._began = time.monotonic(), time.thread_time()
        self._steps = MAX_STEPS + 10 * size
        self._work = 0
        self._small = 0
        self._large = 0
        self._kept: dict[int, Any] = {}

    def step(self, weight: int) -> None:
        """One pass through a body of `weight` nodes."""
        self._steps -= weight
        if self._steps < 0:
            raise LimitError("ran through too many loops")
        self.work(100 + 10 * weight)

    def work(self, amount: int) -> None:
        """Count work; look at the clock now and then."""
        self._work += amount
        if self._work > _CLOCK_EVERY:
            self._work = 0
            passed, ran = time.monotonic() - self._began[0], time.thread_time() - self._began[1]
            if ran > self._seconds or (passed > 1.5 * self._seconds and ran > 0.25 * self._seconds):
                raise LimitError(f"ran longer than the {self._seconds:.3g} s it is given")

    def check(self, chars: int, what: str = "a text") -> None:
        """Refuse a text of `chars` characters before it is made."""
        if chars > self.max_chars:
            raise LimitError(f"{what} of {chars:,} characters is too large")
        self.work(chars)

    def check_items(self, items: int) -> None:
        """Refuse a list of `items` values before it is made."""
        if items > self.max_items:
            raise LimitError(f"a list of {items:,} values is too large")
        self.work(100 * items)

    def keep(self, value: Any) -> Any:
        """Count the memory of a new value. Returns it.

        Large values are held here until the limit is reached; then those that nobody else holds are let go,
        so the limit is on what the template has at one time.
        """
        size = sys.getsizeof(value)
        if isinstance(value, str):
            self.work(size)
        elif isinstance(value, list | tuple | dict):
            self.check_items(len(value))
            size += 100 * len(value)
        elif isinstance(value, Once):
            size += 100 * len(value.items)
        elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise LimitError("a number of more than a thousand digits is too large")
        if size <= _SMALL:
            self._small += size
        elif id(value) not in self._kept:
            self._kept[id(value)] = value
            self._large += size
        if self._small + self._large > self._max_bytes:
            self._let_go()
        return value

    def _let_go(self) -> None:
        kept, self._kept = self._kept, {}
        self._large = 0
        self.work(_CLOCK_EVERY)
        value: Any = object()
        alone = sys.getrefcount(value)  # of a value that only this method holds
        for key in list(kept):
            value = kept.pop(key)
            if sys.getrefcount(value) > alone:
                self._kept[key] = value
                items = value.items if isinstance(value, Once) else value
                many = isinstance(items, list | tuple | dict)
                self._large += sys.getsizeof(value) + (100 * len(items) if many else 0)
        if self._small + self._large > self._max_bytes:
            raise LimitError(f"holds more than {self._max_bytes // 1024**2} MB")

    def measure(self, value: Any) -> tuple[int, int, int]:
        """Values, characters and levels that printing or comparing `value` would walk through; a part that
        occurs twice counts twice. Refuses what has too many."""
        if isinstance(value, str):
            self.check(len(value))
            return 1, len(value), 1
        values = chars = depth = 0
        level = [value]
        while level:
            depth += 1
            below: list[Any] = []
            for item in level:
                if isinstance(item, str):
                    chars += len(item)
                elif isinstance(item, _CONTAINERS):
                    below += _parts(item)
                    if len(below) > self.max_items:
                        break
                elif isinstance(item, int) and item.bit_length() > MAX_INT_BITS:
                    raise LimitError("a number of more than a thousand digits is too large")
            values += len(level)
            self.check_items(values + len(below))
            if depth > MAX_DEPTH:
                raise LimitError(f"lists are nested in more than {MAX_DEPTH} levels")
            level = below
        self.check(chars, "values")
        return values, chars, depth

    def text(self, value: Any) -> str:
        """`str(value)`, within the limits."""
        if isinstance(value, str):
            self.work(100)
            return str(value)
        self.measure(value)
        return self.keep(str(value))

    def joined(self, parts: list[str]) -> str:
        """The texts as one, within the limits."""
        self.check(sum(map(len, parts)))
        return self.keep("".join(parts))

    def all_of(self, iterator: Iterator[Any]) -> Once:
        """The values of a lazy filter, with an eye on number and time."""
        items = []
        for item in iterator:
            items.append(item)
            if not len(items) % 64:
                self.check_items(len(items))
                self.work(_CLOCK_EVERY)
        return Once(items)


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[type, ...] = (list, tuple, dict, range, Once, Namespace, *_VIEWS)
LAZY: tuple[type, ...] = (GeneratorType, map, filter, zip, type(reversed([])), type(iter([])), type(iter(())))
_METER: ContextVar[Meter] = ContextVar("meter")
current = _METER.get


class metered:
    """`with metered(meter):` makes `meter` the one that `current()` gives in this thread."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> Meter:
        self._token = _METER.set(self._meter)
        return self._meter

    def __exit__(self, *error: object) -> None:
        _METER.reset(self._token)


def _parts(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [*item, *item.values()]
    if isinstance(item, Once):
        return item.items
    if isinstance(item, Namespace):
        return _parts(object.__getattribute__(item, "_Namespace__attrs"))
    return list(item)
