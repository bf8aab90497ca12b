"""Settings become the model that is trained: its class, its weights' dtype, its adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glm_train import dist
from glm_train.adapters.lora import add_adapter
from glm_train.adapters.quantize import quantize_base, require_quantization
from glm_train.adapters.settings import LoraSettings, token_ids
from glm_train.build_data import RunLabels, config_changes
from glm_train.checkpoint.mapped import map_weights
from glm_train.checkpoint.pretrained import (
    GlmForCausalLM,
    GlmForSequenceClassification,
    GlmForTokenClassification,
    Pretrained,
)
from glm_train.config.schema import FullySharded, HybridSharded, LoraAdapter, QloraAdapter
from glm_train.errors import ConfigError
from glm_train.hub import resolve_folder
from glm_train.parallel.parallelize import parallelize
from glm_train.parallel.shard import build_mesh, shard

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig
    from glm_train.text.tokenizer import GlmTokenizer

MODELS: dict[str, type[Pretrained]] = {
    "chat": GlmForCausalLM,
    "sequence_classification": GlmForSequenceClassification,
    "token_classification": GlmForTokenClassification,
}


def device_type(config: RunConfig) -> str:
    """`cpu` or `cuda`; refuses a GPU that is not there."""
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here; use trainer.accelerator=cpu")
    return "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def build_model(
    config: RunConfig, tokenizer: GlmTokenizer, labels: RunLabels | None
) -> tuple[Pretrained, list[str]]:
    """The model, ready to be trained, and what to tell the user of its adapter.

    Its weights are fp32 where they are trained; those that an adapter freezes are as `model.dtype` says.
    """
    check_attention(config)
    if isinstance(config.adapter, QloraAdapter):
        require_quantization()  # before a large model is loaded
    model = _load(config, labels).train()
    body = model if hasattr(model, "set_attention") else model.model
    body.set_attention(config.model.attention)  # type: ignore[operator, union-attr]
    lines: list[str] = []
    if isinstance(config.adapter, LoraAdapter):
        lines = _adapt(model, config.adapter, tokenizer, device_type(config))
    parallelize(
        model,
        activation_checkpointing=config.parallel.activation_checkpointing,
        compile=config.parallel.compile,
    )
    if isinstance(config.parallel, FullySharded):
        _shard(model, config, config.parallel)
    return model, lines


def _load(config: RunConfig, labels: RunLabels | None) -> Pretrained:
    """The model with its weights; where it will be shared out, they stay in the files until then."""
    changes = {**config_changes(config), **(labels.config_changes() if labels else {})}
    kind, name, dtype = MODELS[config.task.name], config.model.path, base_dtype(config)
    if not isinstance(config.parallel, FullySharded):
        return kind.from_pretrained(name, dtype=dtype, **changes)
    folder = resolve_folder(name)
    model = kind.from_pretrained(folder, dtype=dtype, device="meta", **changes)
    map_weights(model, folder, dtype if isinstance(config.adapter, LoraAdapter) else None)
    return model


def _shard(model: Pretrained, config: RunConfig, parallel: FullySharded) -> None:
    if parallel.offload and device_type(config) == "cpu":
        raise ConfigError(
            "parallel.offload moves weights from the GPU to the CPU, and there is no GPU here: set it to false"
        )
    mixed = config.trainer.precision == "bf16-mixed"
    shard(
        model,
        build_mesh(device_type(config), shard_size(config, dist.world_size())),
        dtype=None if isinstance(config.adapter, LoraAdapter) else base_dtype(config),
        compute=torch.bfloat16 if mixed else None,
        offload=parallel.offload,
        prefetch=parallel.prefetch,
    )


def shard_size(config: RunConfig, world_size: int) -> int:
    """How many processes share one copy of the model. Raises ConfigError where they do not go round."""
    if not isinstance(config.parallel, HybridSharded):
        return world_size
    size = config.parallel.shard_size or config.trainer.devices
    if size >= world_size or world_size % size:
        raise ConfigError(
            f"parallel=hsdp shares one copy of the model among {size} of {world_size} processes: parallel.shard_size "
            "must divide their number and be less than it (for one copy in all, use parallel=fsdp)"
        )
    return size


def base_dtype(config: RunConfig) -> torch.dtype:
    """Of the weights as they are loaded: fp32, but for those that are frozen under bf16."""
    frozen = isinstance(config.adapter, LoraAdapter)
    auto = "bf16" if frozen and config.trainer.precision == "bf16-mixed" else "fp32"
    chosen = auto if config.model.dtype == "auto" else config.model.dtype
    return torch.bfloat16 if chosen == "bf16" else torch.float32


def check_attention(config: RunConfig) -> None:
    """Refuse a way of attention that cannot be trained here."""
    chosen, on_cpu = config.model.attention, device_type(config) == "cpu"
    if chosen == "varlen" and (on_cpu or config.trainer.precision == "fp32"):
        raise ConfigError(
            "model.attention=varlen needs a GPU and trainer.precision=bf16-mixed; use model.attention=auto"
        )
    if chosen == "flex" and on_cpu:
        raise ConfigError(
            "model.attention=flex: torch cannot train with it on a CPU; use model.attention=auto"
        )


def _adapt(model: Pretrained, adapter: LoraAdapter, tokenizer: GlmTokenizer, device: str) -> list[str]:
    if isinstance(adapter, QloraAdapter):
        quantize_base(model, device=device)
    return add_adapter(model, lora_settings(adapter, tokenizer)).lines()


def lora_settings(adapter: LoraAdapter, tokenizer: GlmTokenizer) -> LoraSettings:
    """The settings of an adapter, its new tokens as ids."""
    return LoraSettings(
        r=adapter.r,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        targets=adapter.targets,
        rslora=adapter.rslora,
        dora=adapter.dora,
        init=adapter.init,
        modules_to_save=adapter.modules_to_save,
        new_tokens=token_ids(adapter.new_tokens, tokenizer),
    )
