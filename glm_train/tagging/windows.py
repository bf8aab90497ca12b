"""Long documents in pieces that the model can read, so that each position is answered where it sees most around it.

Length 10, size 6, overlap 3; `=` is what a window owns:

    position     0 1 2 3 4 5 6 7 8 9
    window 0     = = = = = .             0 to 6, owns 0 to 5
    window 1           . . = = . .       3 to 9, owns 5 to 7
    window 2             . . . = = =     4 to 10, shifted back to be full, owns 7 to 10
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """Positions `begin` to `end` of a document, which answers `own_begin` to `own_end`. Ends are exclusive."""

    begin: int
    end: int
    own_begin: int
    own_end: int


def windows(length: int, size: int, overlap: int) -> list[Window]:
    """Windows of `size` positions over `[0, length)`, neighbours sharing at least `overlap`; in order, none empty.

    One window where `size` is enough, none for length 0. A position belongs to the window in which its poorer side has
    the most context, the earlier of two equal ones. As all windows are equally long, that is the one whose middle is
    nearest, and what a window owns is one run.

    Raises:
        ValueError: not 0 <= overlap < size, or a negative length.
    """
    if not 0 <= overlap < size or length < 0:
        raise ValueError(f"windows of {size} with {overlap} shared over {length} positions cannot be made")
    if length <= size:
        return [Window(0, length, 0, length)] if length else []
    begins = [*range(0, length - size, size - overlap), length - size]
    # position p is nearer to the middle of the earlier window while 2p <= the sum of both middles
    bounds = [(a + b + size - 1) // 2 + 1 for a, b in pairwise(begins)]
    owns = zip([0, *bounds], [*bounds, length], strict=True)
    return [Window(begin, begin + size, *own) for begin, own in zip(begins, owns, strict=True)]
