"""Checkpointing and compilation change memory and speed, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from glm_train.errors import ConfigError
from glm_train.parallel.parallelize import parallelize


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)
        self.dropout = nn.Dropout(0.5)
        self.runs = 0

    def forward(self, h: Tensor, tables: tuple[Tensor, Tensor], *, keep: Tensor | None = None) -> Tensor:
        self.runs += 1
        h = h + self.dropout(self.down(torch.nn.functional.silu(self.up(h * tables[0] + tables[1]))))
        return h if keep is None else h[keep]


class _Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer() for _ in range(3))

    def forward(self, h: Tensor) -> Tensor:
        tables = (torch.full((8,), 0.5), torch.full((8,), 0.1))
        for layer in self.layers[:-1]:
            h = layer(h, tables)
        return self.layers[-1](h, tables, keep=torch.tensor([0, 2]))


class _Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = _Body()

    def forward(self, h: Tensor) -> Tensor:
        return self.model(h)


def _model(kind: type[nn.Module] = _Headed) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def _step(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    output = model(torch.randn(4, 8, requires_grad=True))
    output.square().sum().backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.fixture
def compiled_layers(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """`Module.compile` that traces as ever and then runs the graph as it is; the modules it was called on."""
    called: list[nn.Module] = []
    original = nn.Module.compile

    def compile(module: nn.Module) -> None:
        called.append(module)
        original(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile)
    return called


@pytest.mark.parametrize("way", ["full", "selective"])
@pytest.mark.parametrize("kind", [_Headed, _Body])
def test_checkpointing_changes_no_value_no_gradient_and_no_key(kind: type[nn.Module], way: str) -> None:
    plain, checked = _model(kind), _model(kind)
    parallelize(checked, activation_checkpointing=way, compile=False)
    assert list(checked.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in checked.modules()] == [type(m) for m in plain.modules()]
    expected, expected_gradients = _step(plain)
    output, gradients = _step(checked)
    assert torch.equal(output, expected)
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in expected_gradients)


def test_each_layer_runs_again_in_backward_and_keeps_nothing_inside() -> None:
    model = _model(_Body)
    parallelize(model, activation_checkpointing="full", compile=False)
    saved: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        output = model(torch.randn(4, 8))
    assert [layer.runs for layer in model.layers] == [1, 1, 1]
    assert (4, 32) not in saved
    output.sum().backward()
    assert [layer.runs for layer in model.layers] == [2, 2, 2]


def test_a_selection_computes_every_second_product_again() -> None:
    """A layer here has two products: the first one's result is kept."""

    def products(way: str) -> list[int]:
        model = _model(_Body)
        parallelize(model, activation_checkpointing=way, compile=False)
        with _CountProducts() as forward:
            output = model(torch.randn(4, 8, requires_grad=True))
        with _CountProducts() as backward:
            output.sum().backward()
        return [forward.count, backward.count]

    plain, selective, full = (products(way) for way in ("none", "selective", "full"))
    assert plain[0] == selective[0] == full[0] == 6
    assert full[1] - plain[1] == 2 * (selective[1] - plain[1]) > 0


class _CountProducts(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


def test_without_checkpointing_each_layer_runs_once() -> None:
    model = _model(_Body)
    parallelize(model, activation_checkpointing="none", compile=False)
    model(torch.randn(4, 8)).sum().backward()
    assert [layer.runs for layer in model.layers] == [1, 1, 1]


def test_a_checkpointed_model_evaluates_as_ever() -> None:
    model = _model(_Body).eval()
    expected = model(torch.ones(4, 8))
    parallelize(model, activation_checkpointing="full", compile=False)
    assert torch.equal(model(torch.ones(4, 8)), expected)


def test_a_deep_copy_runs_its_own_layers() -> None:
    model = _model(_Body)
    parallelize(model, activation_checkpointing="full", compile=False)
    twin = copy.deepcopy(model)
    twin(torch.randn(4, 8)).sum().backward()
    assert [layer.runs for layer in model.layers] == [0, 0, 0]
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in twin.parameters())


@pytest.mark.parametrize("activation_checkpointing", ["none", "full"])
def test_layers_are_compiled_one_by_one_with_the_checkpoint_inside(
    activation_checkpointing: str, compiled_layers: list[nn.Module]
) -> None:
    plain, compiled = _model(), _model()
    for layer in [*plain.model.layers, *compiled.model.layers]:
        layer.dropout.p = 0.0  # compiled dropout draws other numbers
    parallelize(compiled, activation_checkpointing=activation_checkpointing, compile=True)
    assert compiled_layers == list(compiled.model.layers)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    expected, expected_gradients = _step(plain)
    output, gradients = _step(compiled)
    torch.testing.assert_close(output, expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient)


def test_an_unknown_word_is_a_config_error() -> None:
    with pytest.raises(
        ConfigError, match=r"parallel\.activation_checkpointing: unknown choice 'ful'.*'full'"
    ):
        parallelize(_model(), activation_checkpointing="ful", compile=False)


def test_a_model_without_layers_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError, match="Linear has no decoder layers"):
        parallelize(nn.Linear(2, 2), activation_checkpointing="none", compile=False)
