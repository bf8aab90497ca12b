"""What a run says before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import glm_train
from glm_train import dist
from glm_train.build_data import PreparedData
from glm_train.build_model import device_type
from glm_train.checkpoint.pretrained import Pretrained
from glm_train.data.store import ExampleStore
from glm_train.run_folder import RunFolder
from glm_train.run_plan import RunPlan

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


def summary(
    config: RunConfig,
    folder: RunFolder,
    plan: RunPlan,
    data: PreparedData,
    model: Pretrained,
    adapter: list[str],
    start: int,
) -> list[str]:
    """What is about to run, with the batch arithmetic, one line a subject. `adapter` says what is adapted."""
    train, validation = data.train, data.validation
    device = device_type(config)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    size = f"up to {plan.token_budget:,} tokens" if plan.token_budget else f"{plan.documents:,} documents"
    step_tokens, step_targets = (int(n.sum()) / plan.steps_per_epoch for n in (train.lengths, train.trained))
    lines = [
        f"glm-train {glm_train.__version__}  {folder.path}",
        f"model       {config.model.path}: {model.config.model_type}, {_count(parameters)} parameters, "
        f"{trained / parameters:.0%} trained, {config.trainer.precision} on {where}",
        *(f"{'adapter' if number == 0 else '':<12}{line}" for number, line in enumerate(adapter)),
        *_describe("data", train),
    ]
    if adapter and config.model.rope_theta is not None:
        lines.append(
            f"{'warning':<12}model.rope_theta is the model's, and other programs read it from the base's config.json:"
            " serve the exported model, not the adapter"
        )
    if data.labels is not None:
        lines.append(f"{'labels':<12}{data.labels}")
    if validation is not None:
        lines += _describe("validation", validation)
    lines.append(
        f"batch       {dist.world_size()} {'device' if dist.world_size() == 1 else 'devices'} x "
        f"{config.batch.accumulate} "
        f"{'microbatch' if config.batch.accumulate == 1 else 'microbatches'} of {size} = "
        f"{step_tokens:,.0f} tokens a step ({train.report.targets_mean.format(step_targets)})"
    )
    lines.append(
        f"steps       {plan.total_steps:,}, {plan.epochs:.4g} epochs of {plan.steps_per_epoch:,}"
        + (f", going on after step {start:,}" if start else "")
    )
    lines.append(
        f"optimizer   {config.optim.name}, lr {config.optim.lr:g} {config.schedule.name}, "
        f"{config.schedule.resolve_warmup(plan.total_steps):,} warm-up steps"
    )
    return lines


def _describe(what: str, store: ExampleStore) -> list[str]:
    """Examples and tokens, then what of the files was left out or cut."""
    size = store.report.size(len(store), int(store.lengths.sum()), int(store.trained.sum()))
    return [f"{what:<12}{size}", *(f"{'':12}{line}" for line in store.report.losses())]


def _count(number: int) -> str:
    """1,234,567 as 1.2 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
