"""Greedy generation of the same random weights on the same prompts: transformers' `generate` and ours, side by side.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/generate.py             # writes benchmarks/results/generate_cpu.md

Both sides run in one process, in turns, the first of a round being the second of the next. One prompt, and eight of 3
to 24 tokens padded on the left; no stop ids, so that both make every token. Before any timing the tokens of both sides
are compared, and must be equal. On so small a model a token takes about as long as the Python around it.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import processor
from torch import Tensor

from glm_train import GlmConfig, GlmForCausalLM

PAD, WIDTH = 0, 24
MODELS: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "small": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 896,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
}


@dataclass(frozen=True)
class Case:
    """One model and batch: seconds of each round, ours and transformers'."""

    model: str
    rows: int
    parameters: int
    ours: list[float]
    theirs: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument(
        "--threads", type=int, default=1, help="of the CPU (default 1: models so small need no more)"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "generate_cpu.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    logging.getLogger("transformers").setLevel(logging.ERROR)
    cases = []
    for name, shape in MODELS.items():
        ours, theirs = both_models(shape)
        for rows in (1, 8):
            cases.append(measure(name, rows, ours, theirs, args))
            print(row(cases[-1], args.new_tokens), flush=True)
    text = report(cases, args, load)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")
    print("\n" + text)


def both_models(shape: dict[str, int]) -> tuple[Any, Any]:
    """Ours and transformers', fp32, of equal weights, wide enough that the likeliest tokens vary."""
    torch.manual_seed(0)
    config = GlmConfig(
        **shape, max_position_embeddings=4096, initializer_range=0.1, pad_token_id=PAD, eos_token_id=[1]
    )
    ours = GlmForCausalLM(config).eval()
    values = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    theirs = transformers.GlmForCausalLM(transformers.GlmConfig(**values)).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.generation_config.eos_token_id = None
    return ours, theirs


def measure(name: str, rows: int, ours: Any, theirs: Any, args: argparse.Namespace) -> Case:
    ids, mask = prompts(rows, ours.config.vocab_size)
    limits = {"max_new_tokens": args.new_tokens, "do_sample": False, "pad_token_id": PAD}
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours.generate(ids, attention_mask=mask, eos_token_id=[], **limits),
        "theirs": lambda: theirs.generate(input_ids=ids, attention_mask=mask, eos_token_id=None, **limits),
    }
    found, expected = sides["ours"](), sides["theirs"]()
    if found.shape != (rows, WIDTH + args.new_tokens) or not torch.equal(found, expected):
        raise SystemExit(f"{name}, {rows} rows: the two sides make different tokens")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(args.rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            start = time.perf_counter()
            sides[side]()
            seconds[side].append(time.perf_counter() - start)
    return Case(name, rows, sum(p.numel() for p in ours.parameters()), seconds["ours"], seconds["theirs"])


def prompts(rows: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and mask: the last row is as long as the batch is wide, the first is the shortest."""
    ids = torch.randint(2, vocabulary, (rows, WIDTH), generator=torch.Generator().manual_seed(1))
    lengths = torch.linspace(3, WIDTH, rows).long() if rows > 1 else torch.tensor([WIDTH])
    mask = (torch.arange(WIDTH) >= WIDTH - lengths[:, None]).long()
    return ids.masked_fill(mask == 0, PAD), mask


def report(cases: list[Case], args: argparse.Namespace, load: float) -> str:
    shapes = "; ".join(
        f"{name}: hidden {s['hidden_size']}, {s['num_hidden_layers']} layers, "
        f"{s['num_attention_heads']}/{s['num_key_value_heads']} heads of {s['head_dim']}, "
        f"MLP {s['intermediate_size']}, vocabulary {s['vocab_size']:,}"
        for name, s in MODELS.items()
    )
    lines = [
        "# Greedy generation: glm-train and transformers on one CPU",
        "",
        f"`python benchmarks/generate.py`: fp32, {args.new_tokens} new tokens, prompts of {WIDTH} tokens, in batches",
        "ragged and padded on the left.",
        f"{shapes}.",
        f"Equal tokens on both sides, checked first. {args.rounds} rounds in turns; medians, and the median, smallest",
        "and largest ratio of a round.",
        "",
        f"{processor()}, {args.threads} thread{'s' * (args.threads > 1)}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}; load {load:.1f} before.",
        "",
        "| model | parameters | rows | transformers, ms a step | ours, ms a step | ours is faster by |",
        "|---|---|---|---|---|---|",
        *(row(case, args.new_tokens) for case in cases),
    ]
    return "\n".join(lines) + "\n"


def row(case: Case, new_tokens: int) -> str:
    step = [statistics.median(seconds) / new_tokens * 1e3 for seconds in (case.theirs, case.ours)]
    ratios = [theirs / ours for ours, theirs in zip(case.ours, case.theirs, strict=True)]
    spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    size = f"{case.parameters / 1e6:.1f} M"
    return f"| {case.model} | {size} | {case.rows} | {step[0]:.2f} | {step[1]:.2f} | {spread} |"


if __name__ == "__main__":
    main()
