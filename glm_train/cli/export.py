"""`glm-train export RUN OUT`: a run's model for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from glm_train.cli.arguments import number
from glm_train.cli.shown import peak_memory, warn
from glm_train.errors import ConfigError

if TYPE_CHECKING:
    from glm_train.export import Export


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a run's model as a Hugging Face folder, checked against the run",
        description=(
            "Write the model of RUN to the new folder OUT: safetensors, config.json, generation_config.json with all"
            " stop tokens, the tokenizer and the model's own chat template. An adapter is merged into its base, one"
            " tensor at a time. OUT is then read again, and its logits for a prompt are compared with the run's. Where"
            " they differ by more than the tolerance, the exit code is 3 and OUT is not there."
        ),
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder, one of its states (RUN/checkpoints/step-...), a folder of runs (its newest), or a model"
        " folder",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make, new or empty")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="the adapter by itself, in PEFT's format, instead of a merged model",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        help="auto, fp32 or bf16 (default auto: the run's; for a merged adapter its base's)",
    )
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", help="largest weight file, such as 5GB (default 5GiB)"
    )
    parser.add_argument(
        "--layout", default="hf", help="hf, or chatglm for the original release's (default hf)"
    )
    parser.add_argument(
        "--tolerance",
        type=number,
        metavar="X",
        help="largest difference of a logit, as a share of the greatest one (default 0.0005 in fp32, 0.05 in bf16)",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what to compare on (default: a short built-in text)"
    )


def run(args: argparse.Namespace) -> int:
    limit = _limit(args)
    from glm_train.bar import progress_bar
    from glm_train.checkpoint.weights import MAX_SHARD_BYTES
    from glm_train.export import export

    with progress_bar() as progress:
        done = export(
            args.run,
            args.out,
            adapter=args.adapter,
            dtype=args.dtype,
            layout=args.layout,
            max_shard_bytes=MAX_SHARD_BYTES if limit is None else limit,
            tolerance=args.tolerance,
            prompt=args.prompt,
            warn=warn,
            progress=progress,
        )
    print(_summary(args, done))
    return 0


def _limit(args: argparse.Namespace) -> int | None:
    """The most bytes of a weight file; None where nothing was said."""
    if args.max_shard_size is None:
        return None
    if args.adapter:
        raise ConfigError("--max-shard-size: an adapter is one file; leave it out")
    from glm_train.checkpoint.arguments import read_bytes

    try:
        limit = read_bytes(
            int(args.max_shard_size) if args.max_shard_size.isdecimal() else args.max_shard_size
        )
    except ValueError:
        limit = 0
    if limit < 1:
        raise ConfigError(
            f"--max-shard-size {args.max_shard_size}: expected a size such as 5GB, 500MiB or a number of bytes"
        )
    return limit


def _summary(args: argparse.Namespace, done: Export) -> str:
    found = done.agreement
    kind = "adapter" if args.adapter else "model"
    layout = (
        "" if args.adapter else f", {'Hugging Face' if args.layout == 'hf' else 'original (chatglm)'} layout"
    )
    width = max(map(len, done.files))
    lines = [f"{args.out}: the {kind} of {args.run} ({done.task.replace('_', ' ')}{layout})"]
    lines += [f"  {name:<{width}}  {_bytes(size):>10}" for name, size in done.files.items()]
    merged = f", {done.merged} of them changed by the adapter" if done.merged else ""
    lines.append(f"  weights   {done.tensors} tensors, {done.dtype}{merged}")
    if done.state is not None:
        lines.append(f"  state     {done.state}")
    if done.base is not None:
        lines.append(f"  base      {done.base}")
    lines += [
        f"  compared  with the run on {found.tokens} tokens: the logits differ by {found.difference:.3g} at most,"
        f" {found.share:.2g} of the greatest ({found.scale:.3g}); {found.tolerance:g} is allowed",
        f"            the greatest logit is the same at {found.agreeing} of {found.positions} positions",
    ]
    if found.effect is not None:
        lines.append(f"            the adapter itself changes them by {found.effect:.3g} at most")
        if found.difference > found.effect / 4 and found.difference > 0:
            lines.append(
                "            rounding takes away much of what the adapter learned: --dtype fp32 or --adapter keep it"
            )
    return "\n".join([*lines, f"  memory    {_bytes(peak_memory())} at most, mapped files included"])


def _bytes(size: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.2f} {unit}"
    return f"{size} B"
