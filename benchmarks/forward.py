"""Forward and backward of the whole model, side by side with transformers in one process.

    python benchmarks/forward.py
    python benchmarks/forward.py --rounds 5 --layers 4 --model-type glm4

Two batches of the same tiny GLM with the same weights, on the CPU, in fp32: rows of equal length, and ragged documents.
transformers (SDPA, no cache) gets the ragged ones padded on the right, with a mask, as its collator makes them; ours
gets them padded just so, and packed end to end in one row. Each is measured by its documented forward with labels, and
the packed row also by the training step's way, which computes logits for trained positions only, a chunk at a time.
Losses and gradients are compared first. The contenders take turns, each round in another order; a ratio is one of two
times of the same round. Writes benchmarks/results/forward_cpu.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import processor
from torch import Tensor, nn

from glm_train.losses.linear_cross_entropy import linear_cross_entropy
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM

IGNORED = -100
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Batch:
    """Documents padded on the right (B, T), and the same documents packed in one row (1, S)."""

    ids_BT: Tensor
    mask_BT: Tensor
    labels_BT: Tensor
    lengths: list[int]

    @property
    def padding(self) -> float:
        return 1 - sum(self.lengths) / self.ids_BT.numel()

    def packed(self) -> tuple[Tensor, Tensor, Tensor]:
        real = self.mask_BT.bool()
        edges = torch.tensor([0, *self.lengths]).cumsum(0).int()
        return self.ids_BT[real], self.labels_BT[real], edges


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-type", choices=("glm", "glm4"), default="glm")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "forward_cpu.md")
    args = parser.parse_args()
    config = GlmConfig(
        model_type=args.model_type,
        vocab_size=args.vocabulary,
        hidden_size=256,
        intermediate_size=856,  # the released ratio
        num_hidden_layers=args.layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        pad_token_id=0,
        eos_token_id=[0],
    )
    ours, theirs = pair(config)
    load = os.getloadavg()[0]
    sections = [
        section("Rows of equal length", even_batch(args.vocabulary), ours, theirs, args.rounds),
        section("Ragged documents", ragged_batch(args.vocabulary), ours, theirs, args.rounds),
    ]
    text = heading(config, args.rounds, load, ours) + "\n".join(sections)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")
    print(text)
    print(f"wrote {args.output}")


def pair(config: GlmConfig) -> tuple[GlmForCausalLM, Any]:
    """Ours and transformers', with equal weights, in training mode."""
    import transformers

    torch.manual_seed(0)
    ours = GlmForCausalLM(config)
    family = "Glm4" if config.model_type == "glm4" else "Glm"
    values = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    settings = getattr(transformers, f"{family}Config")(**values)
    settings._attn_implementation = "sdpa"
    theirs = getattr(transformers, f"{family}ForCausalLM")(settings)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(), theirs.train()


def even_batch(vocabulary: int) -> Batch:
    return _batch([128] * 6, vocabulary)


def ragged_batch(vocabulary: int) -> Batch:
    """12 documents of log-normal lengths: median 64, sigma 0.8, from 8 to 512."""
    draw = torch.Generator().manual_seed(0)
    lengths = (torch.randn(12, generator=draw) * 0.8).exp().mul(64).round().clamp(8, 512).long()
    return _batch(lengths.tolist(), vocabulary)


def _batch(lengths: list[int], vocabulary: int) -> Batch:
    """Random ids without the padding id, every token a label."""
    ids = torch.randint(
        1, vocabulary, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1)
    )
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return Batch(ids * mask, mask, torch.where(mask.bool(), ids, IGNORED), lengths)


def contenders(batch: Batch, ours: GlmForCausalLM, theirs: Any) -> dict[str, Step]:
    """Each a forward that returns the mean loss. The first is what the others are compared with."""
    padded = {"input_ids": batch.ids_BT, "labels": batch.labels_BT, "use_cache": False}
    if batch.padding:
        padded["attention_mask"] = batch.mask_BT
    ids, labels, edges = batch.packed()
    longest = max(batch.lengths)
    positions = torch.cat([torch.arange(length) for length in batch.lengths])
    predicted = torch.ones_like(ids, dtype=torch.bool)
    predicted[edges[:-1].long()] = False  # the first token of a document is nobody's target
    targets, keep = labels[predicted], predicted.nonzero()[:, 0] - 1
    row = {"input_ids": ids[None], "labels": labels[None], "cu_seqlens": edges, "max_seqlen": longest}

    def training_step() -> Tensor:
        hidden = ours.model.packed_hidden(ids, positions, edges, longest, keep)
        return linear_cross_entropy(hidden, ours.lm_head.weight, targets, scale=1 / len(targets))

    return {
        "transformers, padded": lambda: theirs(**padded).loss,
        "ours, padded": lambda: ours(**padded).loss,
        "ours, packed": lambda: ours(**row).loss,
        "ours, packed, the training step's way": training_step,
    }


def section(title: str, batch: Batch, ours: GlmForCausalLM, theirs: Any, rounds: int) -> str:
    """One table of Markdown."""
    steps = contenders(batch, ours, theirs)
    models: dict[str, nn.Module] = {name: theirs if "transformers" in name else ours for name in steps}
    compare(steps, models)
    seconds = measure(steps, models, rounds)
    base = seconds["transformers, padded"]
    tokens = sum(batch.lengths)
    sizes = " to ".join(str(length) for length in sorted({min(batch.lengths), max(batch.lengths)}))
    about = f"{len(batch.lengths)} documents of {sizes} tokens, {tokens:,} in all"
    if batch.padding:
        about += (
            f"; padded to {batch.ids_BT.numel():,}, {batch.padding:.0%} of it padding, so that work in proportion to"
            f" tokens would be {1 / (1 - batch.padding):.2f}x as fast without it"
        )
    lines = [
        f"## {title}",
        "",
        about + ".",
        "",
        "| | ms | tokens/s | speed, median | range |",
        "|---|---:|---:|---:|---|",
    ]
    for name, times in seconds.items():
        ratios = sorted(theirs_s / ours_s for theirs_s, ours_s in zip(base, times, strict=True))
        middle = statistics.median(times)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if times is not base else ""
        lines.append(
            f"| {name} | {middle * 1e3:,.0f} | {tokens / middle:,.0f} | {statistics.median(ratios):.2f}x | {spread} |"
        )
    return "\n".join([*lines, ""])


def compare(steps: dict[str, Step], models: dict[str, nn.Module]) -> None:
    """Every contender computes the same loss and the same gradients, or nothing is measured."""
    losses, norms = {}, {}
    for name, step in steps.items():
        models[name].zero_grad()
        loss = step()
        loss.backward()
        losses[name] = loss.item()
        norms[name] = (
            torch.stack([p.grad.norm() for p in models[name].parameters() if p.grad is not None])
            .norm()
            .item()
        )
    for found in (losses, norms):
        expected = next(iter(found.values()))
        for name, value in found.items():
            if abs(value / expected - 1) > 1e-5:
                raise SystemExit(f"{name} computes {value}, not {expected}")


def measure(steps: dict[str, Step], models: dict[str, nn.Module], rounds: int) -> dict[str, list[float]]:
    """Seconds of forward and backward of each contender in each round, after a round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    gc.collect()
    gc.disable()
    for turn in range(rounds + 1):
        names = names[1:] + names[:1]
        for name in names:
            models[name].zero_grad()
            begin = time.perf_counter()
            steps[name]().backward()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    gc.enable()
    return seconds


def heading(config: GlmConfig, rounds: int, load: float, model: nn.Module) -> str:
    import transformers

    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    lines = [
        "# Forward and backward, beside transformers",
        "",
        f"`python benchmarks/forward.py` on {machine()}, which had a load of {load:.1f} before;",
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}.",
        f"fp32; `{config.model_type}`, {parameters:.1f} M parameters: hidden {config.hidden_size},"
        f" {config.num_hidden_layers} layers, {config.num_attention_heads} heads on {config.num_key_value_heads}"
        f" of keys and values, vocabulary {config.vocab_size:,}.",
        f"Medians of {rounds} rounds in which the contenders take turns; speed is transformers' time over each one's"
        " of the same round.",
        "Every token is a label. Losses and gradients are equal.",
        "",
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    """The processor, by its kind only."""
    return f"{torch.get_num_threads()} threads of one {processor()}"


if __name__ == "__main__":
    main()
