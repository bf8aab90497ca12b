"""A run's model as a folder that other programs read, and the proof that it answers as the run does.

Everything is done one tensor at a time: an adapter is merged while its base is copied, and both models then run on a
prompt straight from their files. What is written gets its name only when

1. every tensor in it, read again, has the bits that were meant,
2. the merged weights, before they are rounded, give the logits of base and adapter side by side, and
3. the logits of what was written differ from the run's by no more than a tolerance.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_train.adapters.agreement import Agreement, same_answers, same_tensors, tolerance_of
from glm_train.adapters.base_file import BASE_NAME
from glm_train.adapters.config_file import CONFIG_NAME as ADAPTER_CONFIG
from glm_train.adapters.folder import WEIGHTS_NAME
from glm_train.adapters.opened import Opened, open_files
from glm_train.adapters.stream_merge import open_adapter
from glm_train.bar import Progress, silent
from glm_train.build_model import MODELS
from glm_train.checkpoint.disk import disk_errors
from glm_train.checkpoint.new_folder import free_place, published
from glm_train.checkpoint.pretrained import GENERATION_NAME, read_generation, write_generation
from glm_train.checkpoint.safetensors_file import Deferred
from glm_train.checkpoint.weights import MAX_SHARD_BYTES, save_weights
from glm_train.convert import LAYOUTS, convert
from glm_train.data.sequence_examples import sequence_ids
from glm_train.data.token_windows import token_windows
from glm_train.errors import CheckFailed, ConfigError, nearest
from glm_train.hub import resolve_folder
from glm_train.model import chatglm_config
from glm_train.model.config import GlmConfig
from glm_train.run_folder import find_model, find_state
from glm_train.run_result import with_stops
from glm_train.run_saved import run_of
from glm_train.text.chat import Conversation, Message, encode_prompt
from glm_train.text.words import split_words
from glm_train.trained_model import StoredModel, open_saved, open_stored, task_of

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}
PROMPTS = {
    "chat": "Which river flows through Paris? 请用一句话回答。",
    "sequence_classification": "The train to Bratislava was late again, but the staff were kind. 服务很好。",
    "token_classification": "Anna Lee sang in Bratislava on Friday. 王小明住在北京。",
}
MOST_TOKENS = 2048
_BIDIRECTIONAL = (
    "the model reads both ways (model.bidirectional). transformers does so where it knows the key is_causal of"
    " config.json, as 5.23 does; an older one, vLLM and llama.cpp run it one way, and its answers are then others"
)


@dataclass(frozen=True)
class Export:
    """What was written: `files` with their sizes in bytes, `merged` of the `tensors` changed by an adapter. `base` is
    the folder of an adapter's base, `state` the saved state that the weights came from."""

    task: str
    files: dict[str, int]
    dtype: str
    tensors: int
    merged: int
    base: Path | None
    agreement: Agreement
    state: Path | None = None


def export(
    run: str,
    out: str | Path,
    *,
    adapter: bool = False,
    dtype: str = "auto",
    layout: str = "hf",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tolerance: float | None = None,
    prompt: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> Export:
    """Write the model of `run` (a run folder, one of its states, a model or adapter folder, a hub id) to the new folder
    `out`.

    `adapter` copies an adapter as it is, in PEFT's format; else it is merged into its base. `dtype`: `auto` keeps each
    tensor's, for a merged model that of its base (and of the trained classification head). `layout`: `hf`, or
    `chatglm` for the original release's. `tolerance` replaces that of `tolerance_of`, `prompt` the text of `PROMPTS`.

    Raises `ConfigError` and `CheckpointError` before anything is written, `CheckFailed` where the result is not the
    run's model; `out` is not there then.
    """
    _check_choices(dtype, layout, tolerance)
    saved = find_state(run)
    source = saved or resolve_folder(find_model(run))
    place = _free_place(Path(out), source)
    with torch.no_grad(), ExitStack() as stack:
        found = open_stored(source) if saved is None else open_saved(saved, place, stack)
        _refuse_inside(place, out, found.base)
        _check_fit(found, adapter, dtype, layout)
        ids_BT = _prompt_ids(found, prompt)
        for text in _warnings(found, adapter):
            warn(text)
        part = stack.enter_context(published(place))
        if adapter:
            counts, agreement = _export_adapter(found, part, ids_BT, progress)
        else:
            home = part if layout == "hf" else part / "hf"
            state = found.files.merged_state(DTYPES[dtype])
            config = _config(found, state)
            _write(found, config, state, home, max_shard_bytes, progress)
            same_tensors(state, home, progress)
            allowed = tolerance_of(state) if tolerance is None else tolerance
            agreement = _compare(found, config, home, ids_BT, allowed, progress)
            if layout == "chatglm":
                _to_original(part, home, max_shard_bytes, progress)
            merged = found.files.adapter.changed() if found.files.adapter else ()
            counts = (str(config.dtype), len(state), len(merged))
        sizes = {str(f.relative_to(part)): f.stat().st_size for f in sorted(part.rglob("*")) if f.is_file()}
    base = found.base if found.files.adapter else None
    return Export(found.task, sizes, *counts, base, agreement, saved)


def _check_choices(dtype: str, layout: str, tolerance: float | None) -> None:
    if dtype not in DTYPES:
        hint = (
            " GLM overflows in float16." if dtype in ("fp16", "float16", "half") else nearest(dtype, DTYPES)
        )
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.{hint}")
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout {layout}: expected {' or '.join(LAYOUTS)}.{nearest(layout, LAYOUTS)}")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ConfigError(
            f"--tolerance {tolerance}: a share of the greatest logit, from 0 to below 1, such as 0.01"
        )


def _free_place(out: Path, source: Path) -> Path:
    """The resolved path of a folder that may be made, outside the run that `source`, a model or a state, lies in."""
    place = free_place(out, source)
    for run in (run_of(source), source.parent):
        if (run / "config.yaml").is_file():
            source = run
            break
    _refuse_inside(place, out, source)
    return place


def _refuse_inside(place: Path, out: str | Path, source: Path) -> None:
    if place.is_relative_to(source.resolve()):
        raise ConfigError(f"{out} lies inside {source}, which is only read; give a folder outside it")


def _check_fit(found: StoredModel, adapter: bool, dtype: str, layout: str) -> None:
    if adapter and found.files.adapter is None:
        raise ConfigError(
            f"--adapter: {found.folder} holds a whole model, not an adapter; leave --adapter out"
        )
    if adapter and (dtype, layout) != ("auto", "hf"):
        raise ConfigError(
            "--adapter copies the adapter as it was trained; --dtype and --layout have no effect with it"
        )
    if layout == "chatglm":
        chatglm_config.from_hugging_face(found.config)


def _prompt_ids(found: StoredModel, prompt: str | None) -> Tensor:
    """The prompt (1, T) as the task reads it: rendered by the chat template, or as a text's tokens."""
    text = PROMPTS[found.task] if prompt is None else prompt
    if not text.strip():
        raise ConfigError("--prompt is empty: write a text, or leave it out")
    if found.task == "chat":
        ids: Any = encode_prompt(found.tokenizer, Conversation((Message("user", text),), None))
    elif found.task == "token_classification":
        ids = token_windows(found.tokenizer, text, split_words(text))[0].ids.tolist()
    else:
        ids = sequence_ids(found.tokenizer, text)[0]
    most = min(MOST_TOKENS, found.config.max_position_embeddings)
    if len(ids) > most:
        raise ConfigError(f"--prompt has {len(ids)} tokens; give a text of {most} at most")
    return torch.tensor([ids])


def _warnings(found: StoredModel, adapter: bool) -> list[str]:
    texts = [_BIDIRECTIONAL] if found.config.bidirectional else []
    if adapter and found.files.adapter:
        parts = (
            [f"modules trained whole ({', '.join(found.files.adapter.whole)})"]
            if found.files.adapter.whole
            else []
        )
        parts += ["DoRA"] if found.files.adapter.dora else []
        if parts:
            texts.append(
                f"vLLM loads no adapter with {' and '.join(parts)}; for it, export without --adapter"
            )
    return texts


def _config(found: StoredModel, state: dict[str, Deferred]) -> GlmConfig:
    name = MODELS[found.task].__name__
    name = name.replace("Glm", "Glm4", 1) if found.config.model_type == "glm4" else name
    dtype = str(state["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    return found.config.with_changes(architectures=[name], dtype=dtype)


def _write(
    found: StoredModel,
    config: GlmConfig,
    state: dict[str, Deferred],
    home: Path,
    limit: int,
    progress: Progress,
) -> None:
    total, done = sum(tensor.nbytes for tensor in state.values()), 0

    def counted(tensor: Deferred) -> Deferred:
        def make() -> Tensor:
            nonlocal done
            progress("writing", done, total)
            done += tensor.nbytes
            return tensor.make()

        return Deferred(tensor.dtype, tensor.shape, make)

    save_weights({name: counted(tensor) for name, tensor in state.items()}, home, max_shard_bytes=limit)
    with disk_errors(home, total, "the model's configuration"):
        config.save_pretrained(home)
    if found.task == "chat":
        _write_generation(found, home)
    found.tokenizer.save_pretrained(home)


def _write_generation(found: StoredModel, home: Path) -> None:
    """generation_config.json, with every token that ends a turn: all of them were trained."""
    model = found.files.model
    source = found.folder if (found.folder / GENERATION_NAME).exists() else found.base
    model.generation_config = read_generation(source, found.config)
    write_generation(home, with_stops(model, found.tokenizer))


def _compare(
    found: StoredModel, config: GlmConfig, home: Path, ids_BT: Tensor, allowed: float, progress: Progress
) -> Agreement:
    """Open what was written as anyone would, and compare its answers with the run's."""
    read = GlmConfig.from_pretrained(home)
    if read != config:
        raise CheckFailed("config.json reads differently from what was written. Nothing was kept.")
    copy = open_files(MODELS[task_of(read.architectures, home)], read, home, home)
    return same_answers(found.files, copy, ids_BT, allowed, progress)


def _to_original(part: Path, home: Path, limit: int, progress: Progress) -> None:
    """Put the original's layout in the place of Hugging Face's, which lies in `home`; `convert` compares the two."""
    made = part / "chatglm"
    convert(home, made, to="chatglm", max_shard_bytes=limit, progress=progress)
    shutil.rmtree(home)
    for path in made.iterdir():
        path.rename(part / path.name)
    made.rmdir()


def _export_adapter(
    found: StoredModel, part: Path, ids_BT: Tensor, progress: Progress
) -> tuple[tuple[str, int, int], Agreement]:
    """PEFT's files, ours beside them, and the tokenizer; then the copy beside the same base."""
    with disk_errors(part, (found.folder / WEIGHTS_NAME).stat().st_size, "the adapter"):
        for name in (ADAPTER_CONFIG, WEIGHTS_NAME, BASE_NAME, GENERATION_NAME):
            if (found.folder / name).is_file():
                shutil.copyfile(found.folder / name, part / name)
    found.tokenizer.save_pretrained(part)
    copied = open_adapter(found.files.model, part)
    agreement = same_answers(found.files, Opened(found.files.model, copied), ids_BT, 0.0, progress)
    kinds = {str(t.dtype).removeprefix("torch.") for t in copied.stored.tensors.values()}
    return (" and ".join(sorted(kinds)), len(copied.stored.tensors), 0), agreement
