"""Greedy and sampled generation over token ids, with a key-value cache; it knows nothing of text.

Two prompts padded on the left (`.`), three steps, E a stop id:

    prompt        made          returned
    . 3 1 4       1 E           . 3 1 4 1 E .
    9 2 6 5       3 5 E         9 2 6 5 3 5 E

Shapes: B prompts, R rows (B times num_return_sequences), T prompt tokens, S tokens so far, V vocab, E stop ids.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_train.dist import is_launched
from glm_train.errors import CheckpointError
from glm_train.model.cache import KeyValueCache
from glm_train.model.generation_settings import Settings, check_prompt, random_source, refuse_unknown, settle
from glm_train.model.sampling import draw, penalised, seen_tokens

_MASK_STEP = 1024  # tokens by which the mask of a padded batch grows
Show = Callable[[Tensor], None]


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor | None = None,
    max_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    num_return_sequences: int | None = None,
    attention_mask: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    streamer: Any = None,
    max_length: int | None = None,
    inputs: Tensor | None = None,
    **unknown: Any,
) -> Tensor:
    """Continue `input_ids` (B, T; also called `inputs`) until every row has made a stop id, or to the limit.

    Returns prompts and answers, (B * num_return_sequences, T + new), answers to one prompt one after the other; after
    a row's stop id comes `pad_token_id`. Prompts of unequal length are padded on the left, with `attention_mask`
    (B, T) 0 there; without a mask every id is real. None means what the model's generation_config says, else greedy;
    sampling, temperature 1 and top_k 50, as in transformers; else 256 new tokens. `max_length` counts the prompt too.
    `eos_token_id` defaults to `stop_ids(model)`; [] never stops.

    Sampling filters by temperature, `top_k` (0: all), `top_p` and `min_p`, in this order. Before them, and in greedy
    generation too, `repetition_penalty` acts on the ids of prompt and answer that are not masked. Tokens are those
    that transformers draws from the same random state: torch's, `generator`'s (the model's device) or that of `seed`.

    `streamer` is called with each step's tokens (R,), or has `put`, which gets the prompts and then each step's
    tokens on the CPU, and `end`, as transformers' streamers have. ValueError for what cannot be meant, such as
    padding on the right or a temperature without sampling; TypeError for an argument that does not exist;
    CheckpointError for a generation_config or weights that cannot be generated with.
    """
    given = dict(locals())
    refuse_unknown(given.pop("unknown"), _arguments())
    prompt_BT = check_prompt(input_ids, inputs, attention_mask, model.config.vocab_size)
    settings = settle(model, prompt_BT.shape[1], stop_ids(model), given)
    source = random_source(model, seed, generator)
    with _evaluating(model):
        answer_RS = _run(model, prompt_BT, attention_mask, settings, source, streamer)
    return answer_RS.to(prompt_BT)


def stop_ids(model: Any) -> list[int]:
    """The ids that end an answer: what generation_config.json says, else config.json."""
    stated = (getattr(model, "generation_config", None) or {}).get("eos_token_id")
    if stated is None:
        return model.config.eos_token_ids
    return [stated] if isinstance(stated, int) else list(stated)


def _run(
    model: Any, ids_BT: Tensor, mask_BT: Tensor | None, settings: Settings, source: Any, streamer: Any
) -> Tensor:
    """Prompt once, repeat its rows, then a token at a time: (R, T + new) on the model's device."""
    device, repeats = next(model.parameters()).device, settings.num_return_sequences
    ids_BT = ids_BT.to(device, torch.long)
    if mask_BT is not None:
        mask_BT = None if bool(mask_BT.all()) else mask_BT.to(device).bool()
    decoding = _Decoding(model, mask_BT, ids_BT.shape[1] + settings.new_tokens)
    scores_RV = decoding.start(ids_BT, repeats)
    if not bool(scores_RV.isfinite().all()):
        raise CheckpointError(
            "the model's scores are not finite: its weights have diverged, or float16 overflowed, "
            "which GLM needs bfloat16 or float32 for"
        )
    ids_RT = ids_BT.repeat_interleave(repeats, dim=0)
    seen_RV = None
    if settings.repetition_penalty != 1.0:
        hidden = None if mask_BT is None else mask_BT.repeat_interleave(repeats, dim=0)
        seen_RV = seen_tokens(ids_RT, hidden, scores_RV.shape[-1])
    with _shown_by(streamer, ids_RT) as show:
        made = _continue(decoding, scores_RV, seen_RV, settings, source, show)
    return torch.cat((ids_RT, torch.stack(made, dim=1)), dim=1)


def _continue(
    decoding: _Decoding,
    scores_RV: Tensor,
    seen_RV: Tensor | None,
    settings: Settings,
    source: torch.Generator | None,
    show: Show | None,
) -> list[Tensor]:
    """The tokens (R,) of each step, until all rows are done."""
    device = scores_RV.device
    stop_E = torch.tensor(settings.stop_ids, device=device, dtype=torch.long)
    done_R = torch.zeros(len(scores_RV), dtype=torch.bool, device=device)
    check = _StopCheck(deferred=device.type == "cuda" and show is None)
    made: list[Tensor] = []
    while True:
        if seen_RV is not None:
            scores_RV = penalised(scores_RV, seen_RV, settings.repetition_penalty)
        sampling = settings.sampling
        token_R = scores_RV.argmax(-1) if sampling is None else draw(scores_RV, sampling, source)
        if settings.stop_ids:
            token_R = token_R.masked_fill(done_R, settings.pad_id)
            done_R = done_R | torch.isin(token_R, stop_E)
        made.append(token_R)
        if show is not None:
            show(token_R)
        surplus = check(done_R) if settings.stop_ids else None
        if surplus is not None:
            return made[: len(made) - surplus]
        if len(made) == settings.new_tokens:
            return made
        if seen_RV is not None:
            seen_RV.scatter_(1, token_R[:, None], True)
        scores_RV = decoding.step(token_R)


class _Decoding:
    """The model with its cache, positions and mask, moved on one token at a time."""

    def __init__(self, model: Any, mask_BT: Tensor | None, capacity: int) -> None:
        self.model, self.mask_BT, self.capacity = model, mask_BT, capacity
        self.cache = KeyValueCache()
        # Of a padded batch: which keys a new token sees, with room for the tokens to come, and its position.
        self.allowed_R11S: Tensor | None = None
        self.position_R1: Tensor | None = None

    def start(self, ids_BT: Tensor, repeats: int) -> Tensor:
        """Scores (R, V) of the first new token: the prompts run once, then each of their rows is repeated."""
        mask_BT = self.mask_BT
        positions_BT = None if mask_BT is None else (mask_BT.cumsum(-1) - 1).clamp(min=0)
        scores_BV = self._forward(ids_BT, mask_BT, positions_BT)
        if mask_BT is not None:
            self.position_R1 = mask_BT.sum(-1, keepdim=True).repeat_interleave(repeats, dim=0)
            self.allowed_R11S = mask_BT.repeat_interleave(repeats, dim=0)[:, None, None]
        if repeats > 1:
            self.cache.batch_repeat_interleave(repeats)
        self.cache.capacity = self.capacity  # from the first step on, which moves the prompt into it
        return scores_BV.repeat_interleave(repeats, dim=0)

    def step(self, token_R: Tensor) -> Tensor:
        """Scores (R, V) of the token after `token_R`."""
        # A fifth faster than no_grad on a small model. What the model keeps was made by the prompt's forward, so
        # nothing that outlives generation is an inference tensor. Collectives of sharded weights do not all take it.
        with nullcontext() if is_launched() else torch.inference_mode():
            if self.allowed_R11S is None or self.position_R1 is None:
                return self._forward(token_R[:, None], None, None)
            tokens = self.cache.get_seq_length() + 1
            if tokens > self.allowed_R11S.shape[-1]:
                more = min(_MASK_STEP, self.capacity - tokens + 1)
                self.allowed_R11S = pad(self.allowed_R11S, (0, more), value=True)
            scores_RV = self._forward(token_R[:, None], self.allowed_R11S[..., :tokens], self.position_R1)
            self.position_R1 = self.position_R1 + 1
            return scores_RV

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        out = self.model(
            ids,
            mask,
            positions,
            past_key_values=self.cache,
            use_cache=True,
            output_attentions=False,
            output_hidden_states=False,
            return_dict=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()


class _StopCheck:
    """Whether every row is done, and then how many surplus steps were made.

    Deferred (on a GPU), each call answers for the step before, so that the CPU queues the next step while the GPU
    works instead of waiting for it at every token; the one step too many is dropped.
    """

    def __init__(self, deferred: bool) -> None:
        self._deferred = deferred
        self._asked: tuple[Tensor, Any] | None = None

    def __call__(self, done_R: Tensor) -> int | None:
        """None to go on."""
        every = done_R.all()
        if not self._deferred:
            return 0 if bool(every) else None
        before, self._asked = self._asked, (every.to("cpu", non_blocking=True), _mark(every.device))
        if before is None:
            return None
        answer, copied = before
        if copied is not None:
            copied.synchronize()
        return 1 if bool(answer) else None


def _mark(device: torch.device) -> Any:
    """The point in the GPU's queue where everything asked so far is done."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; modules that were training do so again, whatever happens."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _shown_by(streamer: Any, ids_RT: Tensor) -> Iterator[Show | None]:
    """What to call with each step's tokens; a streamer that waits for an end gets it after an error too."""
    if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        if streamer is not None and not callable(streamer):
            raise TypeError(
                f"streamer must be callable, or have put and end; found {type(streamer).__name__}"
            )
        yield streamer
        return
    try:
        streamer.put(ids_RT.cpu())
        yield lambda token_R: streamer.put(token_R.cpu())
    finally:
        streamer.end()


def _arguments() -> list[str]:
    return [name for name in inspect.signature(generate).parameters if name not in ("model", "unknown")]
