"""glm-train: fine-tune GLM-4 models. The public names load on first use, so `import glm_train` is instant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glm_train.checkpoint.pretrained import (
        GlmForCausalLM,
        GlmForSequenceClassification,
        GlmForTokenClassification,
        GlmModel,
    )
    from glm_train.model.config import GlmConfig
    from glm_train.text.tokenizer import GlmTokenizer

_HOME = {
    "GlmConfig": "glm_train.model.config",
    "GlmModel": "glm_train.checkpoint.pretrained",
    "GlmForCausalLM": "glm_train.checkpoint.pretrained",
    "GlmForSequenceClassification": "glm_train.checkpoint.pretrained",
    "GlmForTokenClassification": "glm_train.checkpoint.pretrained",
    "GlmTokenizer": "glm_train.text.tokenizer",
}

__version__ = "0.1.0"
__all__ = [
    "GlmConfig",
    "GlmForCausalLM",
    "GlmForSequenceClassification",
    "GlmForTokenClassification",
    "GlmModel",
    "GlmTokenizer",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'glm_train' has no attribute {name!r}")
