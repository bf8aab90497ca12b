"""The best tags that make sense: a word cannot be inside an entity that has not begun.

T words, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from glm_train.tagging.schemes import OUTSIDE, is_iob2


def allowed_transitions(names: Sequence[str]) -> np.ndarray:
    """Which label may follow which: (L+1, L) bool, `[before, after]`; the last row is the start of a sentence.

    For IOB2 names, I-X follows B-X and I-X alone. For `O B-X I-X`:

        after     O   B-X  I-X
        O        yes  yes   -
        B-X      yes  yes  yes
        I-X      yes  yes  yes
        start    yes  yes   -

    Names that are not IOB2 (parts of speech; an I- without its B-) may follow each other in any order.

    The array is shared between calls and read-only.
    """
    return _allowed(tuple(names))


def viterbi(scores_TL: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The ids (T,) of the allowed path with the largest sum of scores (Viterbi 1967; no learned transition scores).

    `scores_TL` are logits or log-probabilities, which differ by a constant a word and give the same path. T may be 0.

    Raises:
        ValueError: scores of another shape, or that are not finite.
    """
    scores_TL = np.asarray(scores_TL, np.float64)
    if scores_TL.ndim != 2 or scores_TL.shape[1] != len(names):
        raise ValueError(f"scores must be (words, {len(names)}), found {scores_TL.shape}")
    if not np.isfinite(scores_TL).all():
        raise ValueError("scores must be finite numbers; the model's outputs overflow or are not a number")
    if not len(scores_TL):
        return np.zeros(0, np.int64)
    allowed = allowed_transitions(names)
    best_T = scores_TL.argmax(1)
    # nothing scores more than each word's best label: where those make sense together, they are the answer
    if allowed[-1, best_T[0]] and allowed[best_T[:-1], best_T[1:]].all():
        return best_T
    barred_LL = np.where(allowed, 0.0, -np.inf)
    total_L = scores_TL[0] + barred_LL[-1]
    came_from_TL = np.zeros(scores_TL.shape, np.int64)
    for word in range(1, len(scores_TL)):
        paths_LL = total_L[:, None] + barred_LL[:-1]
        came_from_TL[word] = paths_LL.argmax(0)
        total_L = paths_LL.max(0) + scores_TL[word]
    best_T[-1] = total_L.argmax()
    for word in range(len(scores_TL) - 1, 0, -1):
        best_T[word - 1] = came_from_TL[word, best_T[word]]
    return best_T


@lru_cache(maxsize=8)
def _allowed(names: tuple[str, ...]) -> np.ndarray:
    allowed = np.ones((len(names) + 1, len(names)), bool)
    if is_iob2(names):
        for after, name in enumerate(names):
            if name != OUTSIDE and name[0] == "I":
                allowed[:-1, after] = [before in (f"B{name[1:]}", name) for before in names]
                allowed[-1, after] = False
    allowed.flags.writeable = False
    return allowed
