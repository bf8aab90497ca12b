"""The chunked head loss against fp64, at its edges, and what it keeps in memory. M positions, H hidden, V vocab."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from glm_train.losses.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_metrics

# Relative to fp64, Frobenius norm for gradients. bf16 operands are exact in fp64: only our own rounding counts.
LOSS = 1e-6
GRADIENT = {torch.float32: 1e-5, torch.bfloat16: 2e-3}
ROWS = 96


def _inputs(vocab: int, share: float, dtype: torch.dtype, hidden: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and targets of the `share` of 96 rows that is trained, as the caller compacts them."""
    generator = torch.Generator().manual_seed(vocab)
    rows = torch.randn(ROWS, hidden, generator=generator).to(dtype)
    weight = torch.randn(vocab, hidden, generator=generator).mul_(0.2).to(dtype)
    trained = torch.randperm(ROWS, generator=generator)[: round(ROWS * share)].sort().values
    targets = torch.randint(0, vocab, (len(trained),), generator=generator)
    return rows[trained].requires_grad_(), weight.requires_grad_(), targets


def _exact(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> tuple[float, Tensor, Tensor]:
    wide = [t.detach().double().requires_grad_() for t in (hidden_MH, weight_VH)]
    loss = F.cross_entropy(wide[0] @ wide[1].t(), targets_M, reduction="sum")
    return loss.item(), *torch.autograd.grad(loss, wide)


def _error(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("trained_head", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 32, None])
@pytest.mark.parametrize("vocab", [11, 997])
def test_matches_fp64(
    vocab: int, chunk_rows: int | None, dtype: torch.dtype, trained_head: bool, share: float
) -> None:
    hidden_MH, weight_VH, targets_M = _inputs(vocab, share, dtype)
    exact_loss, exact_hidden, exact_weight = _exact(hidden_MH, weight_VH, targets_M)
    weight_VH.requires_grad_(trained_head)

    loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M, chunk_rows=chunk_rows)
    loss.backward()

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact_loss, rel=LOSS)
    assert hidden_MH.grad.dtype == dtype
    assert _error(hidden_MH.grad, exact_hidden) < GRADIENT[dtype]
    if trained_head:
        assert weight_VH.grad.dtype == dtype
        assert _error(weight_VH.grad, exact_weight) < GRADIENT[dtype]
    else:
        assert weight_VH.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("trained_head", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("vocab", [11, 997])
def test_no_trained_row_is_an_exact_zero_that_takes_part_in_backward(
    vocab: int, trained_head: bool, dtype: torch.dtype
) -> None:
    hidden_MH, weight_VH, targets_M = _inputs(vocab, 0.0, dtype)
    weight_VH.requires_grad_(trained_head)
    body = torch.ones(
        4, 48, dtype=dtype, requires_grad=True
    )  # as in a model: the rows are taken from hidden states
    loss = linear_cross_entropy(body[:0] + hidden_MH, weight_VH, targets_M)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(body.grad, torch.zeros_like(body))
    if trained_head:
        assert torch.equal(weight_VH.grad, torch.zeros_like(weight_VH))


def test_frozen_hidden_states_still_train_the_head() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float32)
    exact = _exact(hidden_MH, weight_VH, targets_M)[2]
    linear_cross_entropy(hidden_MH.detach(), weight_VH, targets_M, chunk_rows=20).backward()
    assert _error(weight_VH.grad, exact) < GRADIENT[torch.float32]


def test_fp64_operands_are_computed_in_fp64() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float64)
    exact_loss, exact_hidden, exact_weight = _exact(hidden_MH, weight_VH, targets_M)
    loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M, chunk_rows=20)
    loss.backward()
    assert loss.item() == pytest.approx(exact_loss, rel=1e-13)
    assert _error(hidden_MH.grad, exact_hidden) < 1e-13
    assert _error(weight_VH.grad, exact_weight) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_scale_is_a_factor_of_the_loss_and_of_the_gradients(dtype: torch.dtype) -> None:
    hidden_MH, weight_VH, targets_M = _inputs(997, 1.0, dtype)
    exact_loss, exact_hidden, exact_weight = _exact(hidden_MH, weight_VH, targets_M)
    loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M, scale=1 / 96, chunk_rows=32)
    (loss * 2).backward()
    assert loss.item() == pytest.approx(exact_loss / 96, rel=LOSS)
    assert _error(hidden_MH.grad, exact_hidden / 48) < GRADIENT[dtype]
    assert _error(weight_VH.grad, exact_weight / 48) < GRADIENT[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_losses_of_hundreds_of_nats_stay_exact(dtype: torch.dtype) -> None:
    """The target's probability is 0 in fp32 there, and its logarithm is not."""
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, dtype)
    hidden_MH = (hidden_MH.detach() * 200).requires_grad_()
    exact_loss, exact_hidden, _ = _exact(hidden_MH, weight_VH, targets_M)
    assert exact_loss / ROWS > 150
    loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M, chunk_rows=40)
    loss.backward()
    assert loss.item() == pytest.approx(exact_loss, rel=LOSS)
    assert _error(hidden_MH.grad, exact_hidden) < GRADIENT[dtype]


def test_a_non_finite_hidden_state_is_not_hidden() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float32)
    hidden_MH = hidden_MH.detach().index_fill(0, torch.tensor(3), math.nan)
    assert linear_cross_entropy(hidden_MH, weight_VH, targets_M).isnan()


def test_tied_use_of_the_weight_adds_up() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float32)
    twice = linear_cross_entropy(hidden_MH, weight_VH, targets_M) + weight_VH.sum()
    twice.backward()
    assert _error(weight_VH.grad - 1, _exact(hidden_MH, weight_VH, targets_M)[2]) < 1e-4


def test_autocast_on_a_cpu_keeps_fp32_products_and_the_dtype_of_the_master_weights() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(997, 1.0, torch.float32)
    narrow_MH = hidden_MH.detach().bfloat16().requires_grad_()
    exact_loss, exact_hidden, exact_weight = _exact(narrow_MH, weight_VH, targets_M)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(narrow_MH, weight_VH, targets_M, chunk_rows=30)
    loss.backward()
    assert (loss.dtype, weight_VH.grad.dtype, narrow_MH.grad.dtype) == (
        torch.float32,
        torch.float32,
        torch.bfloat16,
    )
    assert loss.item() == pytest.approx(exact_loss, rel=LOSS)
    assert _error(weight_VH.grad, exact_weight) < GRADIENT[torch.float32]
    assert _error(narrow_MH.grad, exact_hidden) < GRADIENT[torch.bfloat16]


def test_a_second_backward_is_refused() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(11, 1.0, torch.float32)
    loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_metrics_are_the_loss_and_the_likeliest_tokens(dtype: torch.dtype) -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, dtype)
    best_M = (hidden_MH.double() @ weight_VH.double().t()).argmax(1)
    targets_M[::3] = best_M[::3]
    loss, correct = linear_cross_entropy_metrics(hidden_MH, weight_VH, targets_M, chunk_rows=25)
    assert correct.item() == (best_M == targets_M).sum().item()
    assert correct.item() >= ROWS // 3
    assert loss.item() == pytest.approx(_exact(hidden_MH, weight_VH, targets_M)[0], rel=LOSS)
    assert not loss.requires_grad


def test_metrics_of_no_rows_are_zero() -> None:
    loss, correct = linear_cross_entropy_metrics(*_inputs(97, 0.0, torch.float32))
    assert (loss.item(), correct.item()) == (0.0, 0)


def test_equal_logits_are_not_all_correct() -> None:
    """With a zero head every token is the likeliest; only one of them can be the prediction."""
    weight_VH = torch.zeros(5, 8)
    _, correct = linear_cross_entropy_metrics(torch.ones(10, 8), weight_VH, torch.arange(10) % 5)
    assert correct.item() == 2


@pytest.mark.parametrize("target", [-100, -1, 97])
def test_a_target_that_is_no_class_is_refused(target: int) -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float32)
    targets_M[5] = target
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        linear_cross_entropy(hidden_MH, weight_VH, targets_M)


def test_operands_that_do_not_fit_are_refused() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float32)
    for operands, message in (
        ((hidden_MH, weight_VH.bfloat16(), targets_M), "do not mix"),
        ((hidden_MH, weight_VH[:, :5], targets_M), "H differs"),
        ((hidden_MH, weight_VH, targets_M[1:]), "rows"),
        ((hidden_MH, weight_VH, targets_M.int()), "int64"),
    ):
        with pytest.raises(AssertionError, match=message):
            linear_cross_entropy(*operands)


def test_a_wide_head_on_a_narrow_model_widens_the_hidden_states() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(97, 1.0, torch.float32)
    narrow_MH = hidden_MH.detach().bfloat16().requires_grad_(True)
    loss = linear_cross_entropy(narrow_MH, weight_VH, targets_M)
    torch.testing.assert_close(
        loss, linear_cross_entropy(narrow_MH.detach().float(), weight_VH, targets_M), rtol=0, atol=0
    )
    loss.backward()
    assert narrow_MH.grad is not None
    assert narrow_MH.grad.dtype == torch.bfloat16
    assert narrow_MH.grad.abs().sum() > 0


class _Allocations(TorchDispatchMode):
    """Records the size in elements of every storage that an operation makes new."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._seen: list[torch.UntypedStorage] = []  # kept alive, so that an address is never used twice

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        before = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in before | {s.data_ptr() for s in self._seen}:
                self._seen.append(storage)
                self.sizes.append(storage.nbytes() // tensor.element_size())
        return result


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("trained_head", [True, False], ids=["trained", "frozen"])
def test_one_chunk_of_logits_is_all_that_exists(trained_head: bool, dtype: torch.dtype) -> None:
    """One C x V buffer for the whole call, however many chunks; nothing M x V; one V x H gradient, never copied."""
    vocab, hidden, chunk = 997, 48, 16
    hidden_MH, weight_VH, targets_M = _inputs(vocab, 1.0, dtype)
    weight_VH.requires_grad_(trained_head)
    with _Allocations() as made:
        linear_cross_entropy(hidden_MH, weight_VH, targets_M, chunk_rows=chunk).backward()
    large = sorted(size for size in made.sizes if size > ROWS * hidden)
    gradient = vocab * hidden
    if dtype == torch.float32:
        assert large == [chunk * vocab] + [gradient] * trained_head
    else:  # weights of 16 bits: widened for each product in tiles (here one), the gradient rounded once at the end
        assert [size for size in large if size != gradient] == [chunk * vocab]
        assert large.count(gradient) == 6 * 2 + 2 * trained_head


def test_validation_makes_no_gradient() -> None:
    hidden_MH, weight_VH, targets_M = _inputs(997, 1.0, torch.float32)
    with torch.no_grad(), _Allocations() as made:
        loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M, chunk_rows=16)
    assert not loss.requires_grad
    assert [size for size in made.sizes if size >= ROWS * 48] == [16 * 997]


def test_the_gradient_buffer_becomes_the_gradient() -> None:
    """At most one buffer of the weight's size is made in forward and backward, also where the sum is scaled later."""
    hidden_MH, weight_VH, targets_M = _inputs(997, 1.0, torch.float32)
    with _Allocations() as made:
        (linear_cross_entropy(hidden_MH, weight_VH, targets_M) * 0.5).backward()
    assert made.sizes.count(weight_VH.numel()) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("chunk_rows", [7, 32, None])
def test_matches_fp64_on_a_gpu(chunk_rows: int | None, dtype: torch.dtype) -> None:
    hidden_MH, weight_VH, targets_M = (
        t.detach().cuda().requires_grad_(t.requires_grad) for t in _inputs(997, 1.0, dtype)
    )
    exact_loss, exact_hidden, exact_weight = _exact(hidden_MH, weight_VH, targets_M)
    loss = linear_cross_entropy(hidden_MH, weight_VH, targets_M, chunk_rows=chunk_rows)
    loss.backward()
    assert loss.item() == pytest.approx(exact_loss, rel=LOSS)
    # bf16: the logits' gradients are rounded to bf16 before the products, and dX and dW once more after them
    bound = {torch.float32: 1e-5, torch.bfloat16: 4e-3}[dtype]
    assert _error(hidden_MH.grad, exact_hidden) < bound
    assert _error(weight_VH.grad, exact_weight) < bound
