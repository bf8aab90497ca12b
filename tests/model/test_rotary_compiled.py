"""The rotary embedding under torch's own compiler, which refuses writes into slices that eager torch allows."""

from __future__ import annotations

import shutil

import pytest
import torch

from glm_train.model.rotary import apply_rotary


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
@pytest.mark.parametrize("pairs", [2, 4])
def test_compiled_as_eager(pairs: int) -> None:
    """Of 8 channels all are turned, or half of them: values and gradients."""
    torch.manual_seed(0)
    tables = torch.randn(2, 1, 5, 1, pairs)
    x, weight = torch.randn(1, 5, 3, 8), torch.randn(1, 5, 3, 8)
    found = []
    for turn in (apply_rotary, torch.compile(apply_rotary, dynamic=False)):
        leaf = x.clone().requires_grad_()
        turned = turn(leaf, *tables)
        (turned * weight).sum().backward()
        found.append((turned.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
