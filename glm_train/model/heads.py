"""Heads on the decoder. Shapes: B batch, T tokens, H hidden, V vocab."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glm_train.model.config import GlmConfig
from glm_train.model.decoder import GlmModel, init_weights
from glm_train.model.generation import generate
from glm_train.model.outputs import CausalLMOutput

IGNORED = -100


class GlmForCausalLM(nn.Module):
    """GLM with a language-modelling head, tied to the embeddings where the config says so."""

    def __init__(self, config: GlmConfig) -> None:
        super().__init__()
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

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

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
        keep = (
            logits_to_keep
            if isinstance(num_logits_to_keep, int) and not num_logits_to_keep
            else num_logits_to_keep
        )
        logits = self.lm_head(_kept(body.last_hidden_state, keep))
        loss = None
        if labels is not None:
            loss = causal_lm_loss(logits, labels, cu_seqlens, num_items_in_batch)
        output = CausalLMOutput(loss, logits, body.past_key_values, body.hidden_states, body.attentions)
        return (
            output
            if (getattr(self.config, "return_dict", True) if return_dict is None else return_dict)
            else output.to_tuple()
        )

    generate = generate


def causal_lm_loss(
    logits_BTV: Tensor, labels_BT: Tensor, cu_seqlens: Tensor | None = None, items: int | Tensor | None = None
) -> Tensor:
    """Next-token cross-entropy in fp32 over labels that are not -100; 0 where there are none."""
    if logits_BTV.shape[:2] != labels_BT.shape:
        raise ValueError(
            f"labels are {tuple(labels_BT.shape)}, the logits are for {tuple(logits_BTV.shape[:2])} tokens;"
            " with labels, keep the logits of all tokens"
        )
    shifted = nn.functional.pad(labels_BT, (0, 1), value=IGNORED)[:, 1:]
    if cu_seqlens is not None:
        shifted = shifted.clone()
        shifted[:, cu_seqlens[1:].long() - 1] = IGNORED
    total = nn.functional.cross_entropy(
        logits_BTV.float().flatten(0, 1), shifted.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    count = (shifted != IGNORED).sum().clamp(min=1) if items is None else items
    return total / count


def _kept(h_BTH: Tensor, keep: int | Tensor) -> Tensor:
    if isinstance(keep, torch.Tensor):
        return h_BTH[:, keep]
    return h_BTH[:, -keep:] if keep else h_BTH
