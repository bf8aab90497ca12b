"""However a step is cut into microbatches, it has the same loss and the same gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from glm_train import GlmForCausalLM, GlmTokenizer, build
from glm_train.data.collate import PackedBatch, pack
from glm_train.data.prepare import prepare_chat
from glm_train.data.store import ExampleStore
from glm_train.tasks.chat import ChatTask
from support.reference import relative
from support.tolerances import ACCUMULATION, LOSS


class KeepsGradients(torch.optim.SGD):
    """Records what it is given and changes nothing."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.0)
        self.names = [name for name, _ in model.named_parameters()]
        self.seen: dict[str, torch.Tensor] = {}

    def step(self, closure: Any = None) -> None:
        if closure is not None:
            closure()
        parameters = self.param_groups[0]["params"]
        self.seen = {n: p.grad.clone() for n, p in zip(self.names, parameters, strict=True)}


@pytest.fixture(scope="module")
def store(
    tiny_tokenizer_folder: Path, chat_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExampleStore:
    return prepare_chat(
        [chat_file],
        GlmTokenizer.from_pretrained(tiny_tokenizer_folder),
        format="messages",
        train_on="assistant",
        max_length=96,
        truncation="error",
        cache_dir=tmp_path_factory.mktemp("cache"),
    )


def one_step(model_folder: Path, microbatches: list[PackedBatch]) -> tuple[ChatTask, dict[str, torch.Tensor]]:
    """Run one optimizer step through a Lightning trainer."""
    from lightning.pytorch import Trainer

    build.quiet_lightning()
    model = GlmForCausalLM.from_pretrained(model_folder, dtype=torch.float32).train()
    optimizers: list[KeepsGradients] = []

    def make(module: torch.nn.Module) -> torch.optim.Optimizer:
        optimizers.append(KeepsGradients(module))
        return optimizers[-1]

    task = ChatTask(model, optimizer=make, learning_rate=lambda step: 0.0, clip_norm=None)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader([microbatches], batch_size=None))
    return task, optimizers[0].seen


def cut(store: ExampleStore, sizes: list[int]) -> list[PackedBatch]:
    """The first eight examples as microbatches of the given numbers of documents."""
    total = int(store.trained[:8].sum())
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    groups = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return [pack([store[i] for i in group], list(group), total) for group in groups]


@pytest.mark.parametrize("sizes", [[1] * 8, [2] * 4, [4, 4], [5, 1, 2]])
def test_microbatches_of_any_size_give_the_gradient_of_one(
    store: ExampleStore, model_folder: Path, sizes: list[int]
) -> None:
    whole, expected = one_step(model_folder, cut(store, [8]))
    parts, gradients = one_step(model_folder, cut(store, sizes))
    assert parts.last.loss.item() == pytest.approx(whole.last.loss.item(), rel=LOSS)
    assert expected["model.layers.0.mlp.down_proj.weight"].abs().max() > 0
    for name, gradient in gradients.items():
        assert relative(gradient, expected[name]) <= ACCUMULATION, name


def test_a_microbatch_without_labels_takes_part_and_changes_nothing(
    store: ExampleStore, model_folder: Path
) -> None:
    _, expected = one_step(model_folder, cut(store, [8]))
    ids, labels = store[0]
    total = int(store.trained[:8].sum())
    silent = pack([(ids, labels * 0 - 100)], [], total)
    assert len(silent.targets) == 0
    _, gradients = one_step(model_folder, [*cut(store, [4, 4]), silent])
    for name, gradient in gradients.items():
        assert relative(gradient, expected[name]) <= ACCUMULATION, name


def test_the_mean_is_over_trained_tokens_not_over_documents(store: ExampleStore, model_folder: Path) -> None:
    """The step's loss equals transformers-style masked cross-entropy over all eight documents at once."""
    task, _ = one_step(model_folder, cut(store, [3, 5]))
    model = GlmForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    losses, count = 0.0, 0
    for index in range(8):
        ids, labels = (torch.from_numpy(a.astype("int64"))[None] for a in store[index])
        trained = int((labels[:, 1:] != -100).sum())
        losses += model(ids, labels=labels).loss.item() * trained
        count += trained
    assert task.last.loss.item() == pytest.approx(losses / count, rel=LOSS)
