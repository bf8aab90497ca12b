"""Classification heads on the decoder: one answer a document, or one a token.

Shapes: B rows, T tokens, H hidden, L labels, n documents (the rows of a padded batch, or those of a packed row).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glm_train.model.config import GlmConfig
from glm_train.model.decoder import GlmModel, init_weights, require_config
from glm_train.model.heads import IGNORED
from glm_train.model.inputs import check_classes
from glm_train.model.outputs import BaseModelOutput, SequenceClassifierOutput, TokenClassifierOutput
from glm_train.model.resize import resize_token_embeddings


class _Classifier(nn.Module):
    """What both heads share: the decoder in `model`, and the way a batch goes through it."""

    gives_cache = True

    def __init__(self, config: GlmConfig) -> None:
        super().__init__()
        require_config(config)
        self.config = config
        self.num_labels = config.num_labels
        self.model = GlmModel(config)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        self.model.embed_tokens = embeddings

    resize_token_embeddings = resize_token_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        cache_position: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
    ) -> SequenceClassifierOutput | TokenClassifierOutput | tuple[Any, ...]:
        """The head's scores, and the mean loss where `labels` are given: see the class. The other arguments are
        `GlmModel`'s."""
        body = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache if self.gives_cache else bool(use_cache),
            output_attentions,
            output_hidden_states,
            True,
            cache_position,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
        )
        output = self.classify(body, labels, input_ids, attention_mask, cu_seqlens)
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    def classify(
        self,
        body: BaseModelOutput,
        labels: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> SequenceClassifierOutput | TokenClassifierOutput:
        """The head's own part of a forward."""
        raise NotImplementedError


class GlmForSequenceClassification(_Classifier):
    """GLM with a linear head, `score`, on the last token of each document.

    Logits are (n, L), one row a document. Labels are (n,) classes or values, or (n, L) values or memberships:
    `config.problem_type` (`regression`, `single_label_classification`, `multi_label_classification`) says which loss.
    Without it one label (`config.num_labels` 1) means regression, whole-numbered labels one class a document, and
    other labels several.

    The last token of a document is read where it is known: the end of a packed document, or the last 1 of
    `attention_mask`. Else it is the rightmost token that is not padding, as documented; without a padding id, or with
    `inputs_embeds`, the last one. (Known ends matter: GLM's padding id is a stop token, which may end a document.)
    """

    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        init_weights(self.score, config.initializer_range)

    def classify(
        self,
        body: BaseModelOutput,
        labels: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> SequenceClassifierOutput:
        last_nH = _last_tokens(body, input_ids, attention_mask, cu_seqlens, self.config.pad_token_id)
        logits_nL = self.score(last_nH.to(self.score.weight.dtype))
        loss = None if labels is None else sequence_loss(logits_nL, labels, self.config.problem_type)
        return SequenceClassifierOutput(
            loss, logits_nL, body.past_key_values, body.hidden_states, body.attentions
        )


class GlmForTokenClassification(_Classifier):
    """GLM with dropout and a linear head, `score`, on every token.

    Logits are (B, T, L). Labels are (B, T), each of the token at its own place (nothing is shifted), -100 where there
    is none. The dropout is `config.classifier_dropout`, else `hidden_dropout`, else 0.1, as in transformers.
    """

    gives_cache = False  # the documented output has no place for one

    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=config.token_classification_bias)
        init_weights(self.score, config.initializer_range)

    def classify(
        self,
        body: BaseModelOutput,
        labels: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> TokenClassifierOutput:
        hidden_BTH = self.dropout(body.last_hidden_state)
        logits_BTL = self.score(hidden_BTH.to(self.score.weight.dtype))
        loss = None if labels is None else token_loss(logits_BTL, labels)
        return TokenClassifierOutput(loss, logits_BTL, body.hidden_states, body.attentions)


def sequence_loss(logits_nL: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The documented loss, in fp32: mean squared error, cross-entropy over labels that are not -100 (0 where there are
    none), or binary cross-entropy of each label."""
    _require(isinstance(labels, Tensor), labels, "a tensor")
    n, L = logits_nL.shape
    logits = logits_nL.float()
    if problem_type is None:
        whole = not labels.dtype.is_floating_point and labels.dtype != torch.bool
        several = labels.ndim == 2 and labels.shape[1] > 1
        problem_type = "multi_label_classification" if several or not whole else "single_label_classification"
        problem_type = "regression" if L == 1 else problem_type
    if problem_type == "single_label_classification":
        _require(labels.shape in ((n,), (n, 1)), labels, f"({n},) classes")
        return _mean_cross_entropy(logits, labels.reshape(n))
    _require(labels.numel() == n * L, labels, f"({n}, {L}) values")
    values_nL = labels.reshape(n, L).float()
    if problem_type == "regression":
        return nn.functional.mse_loss(logits, values_nL)
    return nn.functional.binary_cross_entropy_with_logits(logits, values_nL)


def token_loss(logits_BTL: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy in fp32 over labels that are not -100; 0 where there are none."""
    fits = isinstance(labels_BT, Tensor) and labels_BT.shape == logits_BTL.shape[:2]
    _require(fits, labels_BT, f"{tuple(logits_BTL.shape[:2])} classes")
    return _mean_cross_entropy(logits_BTL.float().flatten(0, 1), labels_BT.flatten())


def _mean_cross_entropy(logits_NL: Tensor, labels_N: Tensor) -> Tensor:
    check_classes("labels", labels_N, logits_NL.shape[-1], IGNORED)
    total = nn.functional.cross_entropy(logits_NL, labels_N.long(), ignore_index=IGNORED, reduction="sum")
    return total / (labels_N != IGNORED).sum().clamp(min=1)


def _last_tokens(
    body: BaseModelOutput,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None,
    pad: int | None,
) -> Tensor:
    """The hidden states (n, H) of the last token of each document."""
    h_BTH = body.last_hidden_state
    if cu_seqlens is not None:
        return h_BTH[0, cu_seqlens[1:].long() - 1]
    tokens = h_BTH.shape[1]
    real: Tensor | None = None
    if attention_mask is not None and attention_mask.ndim == 2:
        real = attention_mask[:, -tokens:].bool()  # with a cache, the mask covers its tokens too
    elif input_ids is not None and pad is not None:
        real = input_ids != pad
    if real is None:
        return h_BTH[:, -1]
    rightmost_B = (torch.arange(tokens, device=h_BTH.device) * real.to(h_BTH.device)).argmax(-1)
    return h_BTH[torch.arange(len(h_BTH), device=h_BTH.device), rightmost_B]


def _require(fits: bool, labels: object, expected: str) -> None:
    if not fits:
        found = (
            f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise ValueError(f"labels must be {expected}, found {found}")
