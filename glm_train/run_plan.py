"""The arithmetic of a run: how its data become steps, and whether a saved step number still means the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train import dist
from glm_train.build_data import METRICS, PreparedData
from glm_train.data.plan import PLAN_VERSION, count_microbatches
from glm_train.data.store import ExampleStore
from glm_train.errors import CheckpointError, ConfigError
from glm_train.model.config import GlmConfig
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

BASE_WEIGHTS = "model.path (its weights)"  # under an adapter; None without one
_EXAMPLES = "data.train (its examples)"
_MAY_BEGIN = ("task.metric", "data.validation (its examples)")  # or end: comparing validations


@dataclass(frozen=True)
class RunPlan:
    """Steps of a run. Every epoch has the same number of them."""

    microbatches_per_step: int  # over all ranks
    steps_per_epoch: int
    total_steps: int
    token_budget: int | None  # of a packed microbatch; or
    documents: int | None  # of a microbatch, a fixed number

    @property
    def epochs(self) -> float:
        return self.total_steps / self.steps_per_epoch


def build_plan(config: RunConfig, train: ExampleStore) -> RunPlan:
    """How many steps the run has."""
    documents = config.batch.documents
    if documents is None and not config.data.packing:
        documents = 1
    budget = None if documents is not None else (config.batch.tokens or config.data.max_length)
    per_step = config.batch.accumulate * dist.world_size()
    plan = RunPlan(per_step, 0, 0, budget, documents)
    steps = -(-microbatches_per_epoch(plan, train) // per_step)
    limits = [config.trainer.max_steps, config.trainer.max_epochs and config.trainer.max_epochs * steps]
    total = min(limit for limit in limits if limit is not None)
    return replace(plan, steps_per_epoch=steps, total_steps=total)


def microbatches_per_epoch(plan: RunPlan, train: ExampleStore) -> int:
    """How many packed microbatches the examples fill, over all ranks."""
    return count_microbatches(train.lengths, token_budget=plan.token_budget, documents=plan.documents)


def plan_position(
    config: RunConfig, plan: RunPlan, data: PreparedData, model_config: GlmConfig, tokenizer: GlmTokenizer
) -> dict[str, Any]:
    """What a step number means: runs with equal positions take the same steps with the same kind of model."""
    return {
        **model_position(config, model_config, tokenizer),
        _EXAMPLES: data.train.fingerprint[:16],
        "labels": list(data.labels.names) if data.labels else None,
        "problem": data.problem,
        "task.class_weights": class_weights_of(config),
        **compared(config, data),
        "seed": config.seed,
        "microbatches_per_step": plan.microbatches_per_step,
        "token_budget": plan.token_budget,
        "documents": plan.documents,
        "plan_version": PLAN_VERSION,
    }


def model_position(config: RunConfig, model_config: GlmConfig, tokenizer: GlmTokenizer) -> dict[str, Any]:
    """Of that, what the trained weights belong to."""
    shape = json.dumps(model_config.to_dict(), sort_keys=True)
    return {
        "model.path (its config.json)": hashlib.sha256(shape.encode()).hexdigest()[:16],
        "model.path (its tokenizer)": tokenizer.fingerprint[:16],
        "adapter": adapter_settings(config),
    }


def compares_alike(saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether what a state says of its best validation can be compared with what comes."""
    return all(saved.get(key) == now[key] for key in _MAY_BEGIN)


def refuse_other_base(saved: dict[str, Any], now: str | None, state: Path) -> None:
    """An adapter fits the weights alone that it was trained on, and nothing in its shape tells them from others. States
    of earlier versions do not say which they were."""
    was = saved.get(BASE_WEIGHTS, now)
    if was != now:
        raise CheckpointError(
            f"{state}: its adapter was trained on other weights than those at model.path now (fingerprint {was}, found"
            f" {now}). Put the original weights back"
        )


def class_weights_of(config: RunConfig) -> str | None:
    """What the losses of the classes are multiplied by; None where it is nothing, also for chat."""
    chosen = getattr(config.task, "class_weights", "none")
    return None if chosen == "none" else str(chosen)


def compared(config: RunConfig, data: PreparedData) -> dict[str, Any]:
    """What the best validation so far was best at, and on what; None where nothing depends on it."""
    counts = config.trainer.result == "best" or config.trainer.patience is not None
    validation = data.validation if counts else None
    return {
        "task.metric": config.task.metric or METRICS[data.problem][0] if counts else None,
        "data.validation (its examples)": validation and validation.fingerprint[:16],
    }


def adapter_settings(config: RunConfig) -> dict[str, Any]:
    """The adapter as plain JSON: weights that were trained in one shape do not fit another."""
    return json.loads(json.dumps(asdict(config.adapter)))


def refuse_other_plan(
    saved: dict[str, Any], step: int, now: dict[str, Any], plan: RunPlan, state: Path
) -> None:
    """A state counts the steps of its own plan: under another one, going on would skip or repeat examples."""
    saved = {"problem": now["problem"], **saved}  # earlier states do not say it
    changed = [
        f"{key} was {saved.get(key)!r} and is {now[key]!r}"
        for key in now
        if saved.get(key) != now[key] and not (key in _MAY_BEGIN and None in (saved.get(key), now[key]))
    ]
    if changed:
        if saved.get(_EXAMPLES) != now[_EXAMPLES]:
            changed.append(
                "a file of data.train is another, or a setting of data or task that makes examples of it"
            )
        key = "microbatches_per_step"
        if saved.get(key) != now[key]:
            changed.append(f"batch.accumulate times the number of processes must be {saved.get(key)}")
        raise ConfigError(
            f"{state}: cannot be resumed, because the plan of steps has changed:\n" + "\n".join(changed)
        )
    if step > plan.total_steps:
        raise ConfigError(
            f"{state}: has {step} steps behind it, and the run shall have {plan.total_steps}. "
            "Raise trainer.max_steps or trainer.max_epochs, or resume from an earlier state"
        )
