"""Heads on the decoder. Shapes: B batch, T tokens, H hidden, V vocab."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glm_train.errors import ConfigError
from glm_train.model.config import GlmConfig
from glm_train.model.decoder import GlmModel, init_weights, require_config
from glm_train.model.generation import generate
from glm_train.model.inputs import check_classes
from glm_train.model.outputs import CausalLMOutput
from glm_train.model.resize import resize_token_embeddings

IGNORED = -100


class GlmForCausalLM(nn.Module):
    """GLM with a language-modelling head, tied to the embeddings where the config says so."""

    def __init__(self, config: GlmConfig) -> None:
        super().__init__()
        require_config(config)
        if config.bidirectional:
            raise ConfigError(
                "bidirectional: a causal language model must not see what it has to predict; a bidirectional body is"
                " for GlmForTokenClassification, GlmForSequenceClassification and GlmModel"
            )
        self.config = config
        self.model = GlmModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weights(self.lm_head, config.initializer_range)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the head's matrix the embedding's, where the config ties them."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        self.model.embed_tokens = embeddings

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, head: nn.Linear) -> None:
        self.lm_head = head

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
        cache_position: Tensor | None = None,
        num_logits_to_keep: int | Tensor = 0,
        *,
        logits_to_keep: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        num_items_in_batch: int | Tensor | None = None,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Scores of the next token at each position, and the loss where `labels` (B, T) are given.

        Labels are unshifted: `labels[t]` is what position t - 1 should predict; -100 is not trained. The loss is the
        mean over trained labels, or their sum divided by `num_items_in_batch`. In a packed row the first token of a
        document is nobody's target. `num_logits_to_keep` (newer name `logits_to_keep`): the last n positions, or an
        index tensor; 0 is all of them, which labels need. The other arguments are `GlmModel`'s.
        """
        body = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            True,
            cache_position,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
        )
        keep = _one_of(num_logits_to_keep, logits_to_keep)
        logits = self.lm_head(_kept(body.last_hidden_state, keep))
        loss = None
        if labels is not None:
            loss = causal_lm_loss(logits, labels, cu_seqlens, num_items_in_batch)
        output = CausalLMOutput(loss, logits, body.past_key_values, body.hidden_states, body.attentions)
        return (
            output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()
        )

    generate = generate


def causal_lm_loss(
    logits_BTV: Tensor, labels_BT: Tensor, cu_seqlens: Tensor | None = None, items: int | Tensor | None = None
) -> Tensor:
    """Next-token cross-entropy in fp32 over labels that are not -100; 0 where there are none."""
    if not isinstance(labels_BT, Tensor):
        raise TypeError(f"labels must be a tensor, found {type(labels_BT).__name__}")
    if logits_BTV.shape[:2] != labels_BT.shape:
        raise ValueError(
            f"labels are {tuple(labels_BT.shape)}, the logits are for {tuple(logits_BTV.shape[:2])} tokens;"
            " with labels, keep the logits of all tokens"
        )
    shifted = nn.functional.pad(labels_BT, (0, 1), value=IGNORED)[:, 1:]
    if cu_seqlens is not None:
        shifted = shifted.clone()
        shifted[:, cu_seqlens[1:].long() - 1] = IGNORED
    check_classes("labels", labels_BT, logits_BTV.shape[-1], IGNORED)
    if isinstance(items, int) and items < 1:
        raise ValueError(f"num_items_in_batch must be at least 1, found {items}")
    total = nn.functional.cross_entropy(
        logits_BTV.float().flatten(0, 1), shifted.flatten().long(), ignore_index=IGNORED, reduction="sum"
    )
    count = (shifted != IGNORED).sum().clamp(min=1) if items is None else items
    return total / count


def _one_of(older: int | Tensor, newer: int | Tensor) -> int | Tensor:
    """What to keep, under whichever of its two names: a whole number from 0, or positions (n,)."""
    given = [keep for keep in (older, newer) if isinstance(keep, Tensor) or keep != 0]
    if len(given) > 1:
        raise ValueError("give one of num_logits_to_keep and logits_to_keep, which is its newer name")
    keep = given[0] if given else 0
    if isinstance(keep, Tensor):
        if keep.ndim != 1 or keep.dtype.is_floating_point:
            raise ValueError(f"logits_to_keep must be (positions,), found {keep.dtype} {tuple(keep.shape)}")
    elif type(keep) is not int or keep < 0:
        raise ValueError(f"logits_to_keep must be a whole number of at least 0 or a tensor, found {keep!r}")
    return keep


def _kept(h_BTH: Tensor, keep: int | Tensor) -> Tensor:
    if isinstance(keep, torch.Tensor):
        tokens = h_BTH.shape[1]
        if not keep.is_cuda and keep.dtype != torch.bool and keep.numel():
            low, high = int(keep.min()), int(keep.max())
            if low < -tokens or high >= tokens:
                raise ValueError(
                    f"logits_to_keep names position {low if low < -tokens else high} of {tokens}"
                )
        return h_BTH[:, keep]
    return h_BTH[:, -keep:] if keep else h_BTH
