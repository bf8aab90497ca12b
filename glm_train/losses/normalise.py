"""What a step's loss is divided by: the trained tokens of the whole step, whoever holds them.

The loss of one optimizer step is

    L = (1 / N) * sum over ranks r, microbatches k, trained tokens i of loss[r, k, i]

with N the trained tokens of all ranks and microbatches together, which the plan knows beforehand (`step_tokens`).
Each microbatch's backward adds its own sum / N to the gradients, so how the step is cut makes no difference.
Ranks are different: they average their gradients, (1 / W) * sum over r, so each rank multiplies by W first.

A worked example: three documents of 1, 2 and 5 trained tokens, N = 8, whose token losses are all 1, 2 and 3.

    one rank, one microbatch         (1*1 + 2*2 + 5*3) / 8                             = 20/8
    one rank, {1, 2 tokens} {5}      (1 + 4) / 8  +  15 / 8                            = 20/8
    two ranks, {1, 2 tokens} | {5}   mean of  2 * 5/8  and  2 * 15/8                   = 20/8
    (mean of microbatch means        mean of  5/3  and  3                              = 2.33: not 2.5)

The last line is what averaging microbatches with unequal token counts gives: tokens of short microbatches weigh more.
"""

from __future__ import annotations


def step_scale(step_tokens: int, world_size: int) -> float:
    """What a microbatch's sum of token losses is multiplied by: world_size / step_tokens.

    A step without trained tokens has sums of 0 and keeps them.
    """
    assert step_tokens >= 0, f"{step_tokens} trained tokens"
    assert world_size >= 1, f"{world_size} ranks"
    return world_size / max(step_tokens, 1)
