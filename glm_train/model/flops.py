"""How many floating-point operations a training step of GLM takes, and how many parameters it has.

A matrix of n weights costs 2n operations a token forward; backward costs 2n for the gradient of its input and 2n for
its own. Causal attention over a document of l tokens costs, per layer, 2 * l * heads * head_dim a token forward (half
of the full square, for scores and for values), and twice that backward. Norms, rotary angles and the softmax are left
out: they are below one percent at GLM-4's widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from glm_train.model.config import GlmConfig


def matrix_parameters(config: GlmConfig) -> tuple[int, int]:
    """Weights that multiply every token: of all decoder layers together, and of the head."""
    width, kv_width = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    layer = config.hidden_size * (2 * width + 2 * kv_width + 3 * config.intermediate_size)
    return config.num_hidden_layers * layer, config.vocab_size * config.hidden_size


def total_parameters(config: GlmConfig, head: str = "causal_lm") -> int:
    """All parameters of a model: as a causal language model 9,399,951,360 for GLM-4-9B, 9,400,279,040 for 9B-0414.

    `head` is `causal_lm`, `sequence_classification`, `token_classification` or `none`. Raises `ValueError`.
    """
    body, embeddings = matrix_parameters(config)
    scores = config.num_labels * config.hidden_size
    heads = {
        "causal_lm": 0 if config.tie_word_embeddings else embeddings,
        "sequence_classification": scores,
        "token_classification": scores + config.num_labels * config.token_classification_bias,
        "none": 0,
    }
    if head not in heads:
        raise ValueError(f"unknown head {head!r}; expected one of {', '.join(heads)}")
    width, kv_width = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    biases = width + 2 * kv_width if config.attention_bias else 0
    norms = (4 if config.sandwich_norms else 2) * config.hidden_size
    return body + embeddings + heads[head] + config.num_hidden_layers * (biases + norms) + config.hidden_size


def training_flops(
    config: GlmConfig,
    lengths: Sequence[int],
    trained: int,
    *,
    head_parameters: int | None = None,
    adapter_parameters: int | None = None,
) -> float:
    """Operations of forward and backward over documents of `lengths` tokens.

    `trained` tokens alone reach the head, of `head_parameters` weights (default: the language model's); the saving in
    the last layer is not counted. With `adapter_parameters` the model's own weights are frozen, and cost 4 operations a
    token instead of 6: none for their own gradients. A token of a bidirectional model attends to twice as many.
    """
    body, lm_head = matrix_parameters(config)
    head = lm_head if head_parameters is None else head_parameters
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    seen = 12.0 if config.bidirectional else 6.0
    attention = sum(seen * width * length * length for length in lengths)
    each = 6.0 if adapter_parameters is None else 4.0
    adapter = 6.0 * (adapter_parameters or 0)
    return (each * body + adapter) * sum(lengths) + each * head * trained + attention


def trained_model_flops(model: nn.Module, lengths: Sequence[int], trained: int) -> float:
    """`training_flops` of a model as it is trained: its head, and the low-rank adapters where it is frozen."""
    score = getattr(model, "score", None)
    low_rank = [p.numel() for name, p in model.named_parameters() if p.requires_grad and ".lora_" in name]
    return training_flops(
        model.config,  # type: ignore[arg-type]
        lengths,
        trained,
        head_parameters=None if score is None else sum(p.numel() for p in score.parameters()),
        adapter_parameters=sum(low_rank) if low_rank else None,
    )
