"""`glm-train convert SRC OUT`: the same model in the other layout."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glm_train.cli.arguments import number
from glm_train.cli.shown import peak_memory, warn

if TYPE_CHECKING:
    from glm_train.convert import Conversion

_NAMES = {"hf": "Hugging Face", "chatglm": "original (chatglm)"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="rewrite a model folder: the original chatglm layout <-> Hugging Face's",
        description=(
            "Write the model of SRC to the new folder OUT in the other layout: that of the original release "
            "(model_type chatglm, transformer.encoder.layers...) or Hugging Face's. The result is compared with SRC: "
            "every tensor bit for bit, and the logits of a fixed prompt. Where anything differs, the exit code is 3 "
            "and OUT is not there. Training and generation read both layouts; nothing needs to be converted for them."
        ),
    )
    parser.add_argument("source", metavar="SRC", help="a model folder or a hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make, new or empty")
    parser.add_argument(
        "--to", metavar="{hf,chatglm}", help="the layout of OUT (default: the one SRC has not)"
    )
    parser.add_argument(
        "--rope-theta",
        type=partial(number, above=0),
        metavar="X",
        help="another base of the rotary angles, such as 5e6 where a converted GLM-4-9B-Chat says 10000",
    )
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: as stored)")
    parser.add_argument(
        "--max-shard-gb",
        type=partial(number, above=0),
        metavar="N",
        help="largest weight file, in 10^9 bytes (default: 5 * 2^30 bytes)",
    )


def run(args: argparse.Namespace) -> int:
    from glm_train.bar import progress_bar
    from glm_train.checkpoint.weights import MAX_SHARD_BYTES
    from glm_train.convert import convert

    limit = MAX_SHARD_BYTES if args.max_shard_gb is None else max(1, int(args.max_shard_gb * 10**9))
    with progress_bar() as progress:
        done = convert(
            args.source,
            args.out,
            to=args.to,
            rope_theta=args.rope_theta,
            dtype=args.dtype,
            max_shard_bytes=limit,
            warn=warn,
            progress=progress,
        )
    print(_summary(args.out, done))
    return 0


def _summary(out: Path, done: Conversion) -> str:
    config, compared = done.config, done.comparison
    files = "1 file" if done.files == 1 else f"{done.files} files"
    dtype = f", {config.dtype}" if config.dtype else ""
    ratio = f" (rope_ratio {config.rope_theta / 10000:g})" if done.layout == "chatglm" else ""
    lines = [
        f"{out}: the model in the {_NAMES[done.layout]} layout",
        f"  weights   {done.tensors} tensors, {_bytes(done.size)} in {files}{dtype}",
        f"  rotary    theta {config.rope_theta:,.10g}{ratio}, {config.max_position_embeddings} positions",
        f"  copied    {', '.join(done.copied) or 'no other files'}",
        *([f"  made      {', '.join(done.made)}, from tokenizer.model"] if done.made else []),
        f"  compared  {compared.tensors} tensors: equal bit for bit",
        f"            largest difference of the logits for {compared.tokens} tokens: {compared.difference:g}; "
        f"same next token at {compared.agreeing} of {compared.positions} positions",
        f"  memory    {_bytes(peak_memory())} at most, mapped files included",
    ]
    if done.layout == "chatglm":
        lines.append(
            "  The original's code is not part of this folder: copy its *.py files and auto_map from the release."
        )
    return "\n".join(lines)


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
