"""First values of an adapter's factors."""

from __future__ import annotations

import math

import pytest
import torch

from glm_train.adapters import starts
from glm_train.adapters.starts import first_values


def _weight(rows: int = 12, columns: int = 9) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
def test_pissa_takes_the_best_approximation_of_its_rank(shape: tuple[int, int]) -> None:
    weight, a, b = _weight(*shape), torch.empty(3, shape[1]), torch.empty(shape[0], 3)
    assert first_values(weight, a, b, "pissa", 2.0)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = left[:, :3] @ values[:3].diag() @ right[:3]
    torch.testing.assert_close(2.0 * b @ a, best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))


def test_a_large_weights_triplets_are_found_by_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_EXACT_SIDE", 8)
    decomposed: list[int] = []
    original = torch.linalg.svd

    def recorded(matrix: torch.Tensor, **named: bool) -> object:
        decomposed.append(min(matrix.shape))
        return original(matrix, **named)

    monkeypatch.setattr(torch.linalg, "svd", recorded)
    weight, a, b = _weight(200, 100), torch.empty(3, 100), torch.empty(200, 3)
    assert first_values(weight, a, b, "pissa", 1.0, new=True)
    assert decomposed == [3 + starts._SPARE]
    monkeypatch.undo()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = left[:, :3] @ values[:3].diag() @ right[:3]
    assert (weight - b @ a).norm() <= (weight - best).norm() * 1.0001


@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
def test_olora_is_the_beginning_of_the_qr_decomposition(shape: tuple[int, int]) -> None:
    weight, a, b = _weight(*shape), torch.empty(3, shape[1]), torch.empty(shape[0], 3)
    assert first_values(weight, a, b, "olora", 2.0)
    q, r = torch.linalg.qr(weight)
    torch.testing.assert_close(b, q[:, :3])
    torch.testing.assert_close(a, r[:3], rtol=1e-5, atol=1e-5)


def test_default_and_gaussian_start_at_no_change() -> None:
    torch.manual_seed(0)
    a, b = torch.empty(16, 4000), torch.ones(8, 16)
    assert not first_values(torch.ones(8, 4000), a, b, "default", 2.0)
    assert b.abs().max() == 0
    assert a.abs().max() <= 1 / math.sqrt(4000)  # as torch makes a linear layer
    assert abs(a.std().item() - 1 / math.sqrt(3 * 4000)) < 1e-4
    assert not first_values(torch.ones(8, 4000), a, b, "gaussian", 2.0)
    assert b.abs().max() == 0
    assert abs(a.std().item() - 1 / 16) < 1e-3
