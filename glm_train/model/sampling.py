"""Drawing a token from scores: transformers' filters, in its order and with its arithmetic.

Temperature 0.5 and then the rest, on four tokens:

    scores                     1.0   0.8   0.5   0.0
    temperature 0.5            2.0   1.6   1.0   0.0     divided by it
    top_k 3                    2.0   1.6   1.0    -      the k likeliest stay
    probability                0.49  0.33  0.18
    top_p 0.8                  2.0   1.6    -     -      the likeliest stay that together reach the mass p
    probability                0.60  0.40
    min_p 0.7                  2.0    -     -     -      those stay that reach 0.7 of the likeliest's probability

Shapes: B rows, V vocab, S tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are transformers'; `top_k=0` keeps all, `min_p=None` is off."""

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None


def draw(scores_BV: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """One token a row, (B,), drawn from what `filtered` leaves; with a seed, the one that transformers draws."""
    return torch.multinomial(filtered(scores_BV, sampling).softmax(-1), 1, generator=generator)[:, 0]


def filtered(scores_BV: Tensor, sampling: Sampling) -> Tensor:
    """Scores (fp32) over the temperature, -inf for every token that may not be drawn."""
    if sampling.temperature != 1.0:
        scores_BV = scores_BV / sampling.temperature
    if 0 < sampling.top_k < scores_BV.shape[-1]:
        scores_BV = keep_top_k(scores_BV, sampling.top_k)
    if sampling.top_p < 1.0:
        scores_BV = keep_top_p(scores_BV, sampling.top_p)
    if sampling.min_p is not None:
        scores_BV = keep_min_p(scores_BV, sampling.min_p)
    return scores_BV


def keep_top_k(scores_BV: Tensor, k: int) -> Tensor:
    """The k best of each row, with all that equal the last of them."""
    last_B1 = scores_BV.topk(k, dim=-1).values[:, -1:]
    return scores_BV.masked_fill(scores_BV < last_B1, -torch.inf)


def keep_top_p(scores_BV: Tensor, p: float) -> Tensor:
    """The nucleus: the fewest tokens that together reach the mass p (Holtzman et al. 2020, arXiv 1904.09751)."""
    ascending_BV, order_BV = scores_BV.sort(dim=-1)
    # Summed from the unlikeliest: a token goes where it and all below it hold no more than 1 - p.
    outside_BV = ascending_BV.softmax(-1).cumsum(-1) <= 1 - p
    outside_BV[:, -1] = False
    return scores_BV.masked_fill(outside_BV.scatter(-1, order_BV, outside_BV), -torch.inf)


def keep_min_p(scores_BV: Tensor, share: float) -> Tensor:
    """Tokens with at least `share` of the likeliest one's probability (Nguyen et al. 2024, arXiv 2407.01082)."""
    probability_BV = scores_BV.softmax(-1)
    best_B1 = probability_BV.amax(-1, keepdim=True)
    return scores_BV.masked_fill(probability_BV < share * best_B1, -torch.inf)


def penalised(scores_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Scores of seen tokens made less likely: divided by the penalty above zero, multiplied below (Keskar et al. 2019,
    arXiv 1909.05858). A penalty below 1 makes them likelier."""
    changed_BV = torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return torch.where(seen_BV, changed_BV, scores_BV)


def seen_tokens(ids_BS: Tensor, mask_BS: Tensor | None, vocabulary: int) -> Tensor:
    """Which ids each row holds, (B, V) bool; those that the mask calls padding do not count."""
    # Padding is marked in a column of its own, which is cut off again.
    marked_BS = ids_BS if mask_BS is None else ids_BS.masked_fill(mask_BS == 0, vocabulary)
    seen_BX = torch.zeros(len(ids_BS), vocabulary + 1, dtype=torch.bool, device=ids_BS.device)
    return seen_BX.scatter_(1, marked_BS, True)[:, :vocabulary]
