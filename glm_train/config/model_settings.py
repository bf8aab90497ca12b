"""What is trained: the model, and which of its weights. See `schema.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from glm_train.config.limits import Alpha, Beta, FilePath, Positive, Rank, Refusal, Text

FP16 = "the activations of GLM-4 pass the largest fp16 number and the loss becomes nan; use bf16-mixed"
PURE_BF16 = (
    "bf16 weights are too coarse for the small updates of a full fine-tune: most would be rounded away; "
    "use bf16-mixed, which keeps the weights in fp32"
)

Dtype = Annotated[
    Literal["auto", "fp32", "bf16"],
    Refusal({"bfloat16": "it is written bf16 here", "float32": "it is written fp32 here", "fp16": FP16}),
]


@dataclass(frozen=True, kw_only=True)
class GlmModelSettings:
    """The model that is trained."""

    name: Literal["glm"] = "glm"
    path: FilePath  # a model folder, or the id of one on the Hugging Face hub
    # Under an adapter and bf16-mixed, auto is bf16: frozen weights get no small updates.
    dtype: Dtype = "auto"  # of the weights; auto: fp32, but see above
    attention: Literal["auto", "sdpa", "varlen", "flex"] = "auto"  # auto: the fastest the device has
    bidirectional: bool = False  # classification only: tokens see what follows them, in their own document
    rope_theta: Positive | None = None  # base of the rotary angles; null: as in the model's config.json


@dataclass(frozen=True, kw_only=True)
class NoAdapter:
    """Full fine-tune: every weight of the model is trained."""

    name: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """LoRA (Hu et al., arXiv 2106.09685) through peft: the weights are frozen, low-rank updates beside them trained.

    A classification head is always trained whole. The update is alpha / r times B A.
    """

    name: Literal["lora"] = "lora"
    r: Rank = 16  # rank of the update
    alpha: Alpha = 32.0  # scale of the update, divided by r
    dropout: Beta = 0.0  # on the input of the update
    targets: tuple[Text, ...] | None = None  # names of linear layers; null: all of the decoder, never lm_head
    rslora: bool = False  # divide alpha by the root of r instead (arXiv 2312.03732)
    dora: bool = False  # train the update's magnitude apart from its direction (arXiv 2402.09353)
    # pissa (arXiv 2404.02948) and olora (arXiv 2406.01775) start from a part of the weights themselves.
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"  # of A; B starts at zero
    lr_ratio: Positive | None = None  # learning rate of B over A (LoRA+, arXiv 2402.12354); null: equal
    modules_to_save: tuple[Text, ...] = ()  # further modules, trained whole and saved with the adapter
    new_tokens: tuple[Text, ...] = ()  # tokens of the vocabulary whose embeddings are trained


@dataclass(frozen=True, kw_only=True)
class QloraAdapter(LoraAdapter):
    """LoRA on a base that is held in 4 bits (arXiv 2305.14314). Needs the extra `qlora`."""

    name: Literal["qlora"] = "qlora"  # type: ignore[assignment]


Adapter = NoAdapter | LoraAdapter | QloraAdapter
