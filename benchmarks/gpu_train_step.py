"""One full training step at GLM-4-9B's widths on a GPU: tokens/s, FLOPs utilisation, peak memory.

    python benchmarks/gpu_train_step.py            # writes benchmarks/results/train_step_<device>.md

Random bf16 weights, as many of the 40 layers as fit, packed rows of 4,096 and 8,192 tokens holding documents of
log-normal length (half of each trained), forward, backward and fused AdamW. Sweeps the attention backends, then the
rows of logits in a chunk of the loss. Utilisation counts the operations of `glm_train.model.flops` (causal
attention inside documents, the head at trained tokens only), against the data sheet's peak and against a large bf16
product that is timed beside it. `--lora 16` freezes the weights and trains rank-16 adapters on every linear layer,
which fits the whole GLM-4-9B without activation checkpointing. `--device cpu --layers 1 --hidden 128 --tokens 256`
tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from glm_train.adapters.lora import add_adapter
from glm_train.adapters.settings import LoraSettings
from glm_train.callbacks.peak_flops import peak_flops
from glm_train.losses.linear_cross_entropy import linear_cross_entropy
from glm_train.model.config import GlmConfig
from glm_train.model.flops import trained_model_flops
from glm_train.model.heads import GlmForCausalLM
from glm_train.optim.groups import parameter_groups
from glm_train.optim.optimizers import build_optimizer
from glm_train.parallel.parallelize import parallelize

LAYERS = (40, 32, 28, 24, 20, 16, 12, 8, 4)
CHUNKS = (256, 512, 1024, 2048, 4096)


class Row(NamedTuple):
    """A packed row on the device."""

    ids: torch.Tensor
    positions: torch.Tensor
    edges: torch.Tensor
    lengths: list[int]
    trained: torch.Tensor
    targets: torch.Tensor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, help="default: as many as fit")
    parser.add_argument(
        "--hidden", type=int, default=4096, help="other widths are for trying the script only"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument(
        "--lora", type=int, metavar="R", help="train adapters of this rank, the weights frozen"
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here; see --help for trying the script on a CPU")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    product = matmul_flops(args.device)
    lines = []
    backends = ("varlen", "flex", "sdpa") if args.device == "cuda" else ("sdpa",)
    for tokens in args.tokens:
        layers = args.layers or most_layers(args, tokens)
        lines += [measure(args, layers, tokens, backend, None, name, product) for backend in backends]
        lines += [measure(args, layers, tokens, "auto", chunk, name, product) for chunk in CHUNKS]
    text = report(name, product, args, lines)
    print(text)
    slug = "".join(c if c.isalnum() else "_" for c in name.lower()) + (
        f"_lora{args.lora}" if args.lora else ""
    )
    output = args.output or Path(__file__).parent / "results" / f"train_step_{slug}.md"
    output.write_text(text, encoding="utf-8")


def matmul_flops(device: str) -> float:
    """FLOP/s of a large bf16 product: what the device can do, not what its data sheet says."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronize(device)
    began = time.perf_counter()
    for _ in range(20):
        a @ b
    synchronize(device)
    return 20 * 2 * size**3 / (time.perf_counter() - began)


def most_layers(args: argparse.Namespace, tokens: int) -> int:
    """The most layers whose step fits."""
    for layers in LAYERS:
        try:
            run_steps(args, layers, tokens, "auto", None, steps=2)
            return layers
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise SystemExit("not even four layers fit")


def measure(
    args: argparse.Namespace,
    layers: int,
    tokens: int,
    backend: str,
    chunk: int | None,
    name: str,
    product: float,
) -> str:
    """One row of the table."""
    label = f"| {tokens:,} | {layers} | {backend} | {chunk or 'default'} |"
    try:
        seconds, flops, loss = run_steps(args, layers, tokens, backend, chunk, args.steps)
    except Exception as error:  # a backend that this torch or device lacks is a result too
        return f"{label} {type(error).__name__}: {str(error).splitlines()[0][:60]} | | | | |"
    memory = torch.cuda.max_memory_allocated() / 2**30 if args.device == "cuda" else math.nan
    peak = peak_flops(name)
    share = f"{flops / seconds / peak:.1%}" if peak else "-"
    row = f"{label} {tokens / seconds:,.0f} | {share} | {flops / seconds / product:.1%} | {memory:.1f} | {loss:.3f} |"
    print(row, flush=True)
    return row


def run_steps(
    args: argparse.Namespace, layers: int, tokens: int, backend: str, chunk: int | None, steps: int
) -> tuple[float, float, float]:
    """Seconds and operations of a step (median after two warm ones), and the last loss."""
    device = args.device
    shape: dict[str, Any] = {"num_hidden_layers": layers}
    if args.hidden != 4096:
        heads = max(args.hidden // 128, 2)
        shape |= {
            "hidden_size": args.hidden,
            "intermediate_size": 3 * args.hidden,
            "num_attention_heads": heads,
        }
    config = GlmConfig(**shape)
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = GlmForCausalLM(config).train()
        finally:
            torch.set_default_dtype(torch.float32)
    if args.lora:
        add_adapter(model, LoraSettings(r=args.lora, alpha=2 * args.lora))
    model.model.set_attention(backend)
    parallelize(
        model, activation_checkpointing="full" if args.checkpointing else "none", compile=args.compile
    )
    optimizer = build_optimizer("adamw", parameter_groups(model, 0.01), lr=1e-5, betas=(0.9, 0.95), eps=1e-8)
    row = make_row(tokens, config.vocab_size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, loss = [], torch.zeros(())
    for _ in range(steps + 2):
        synchronize(device)
        began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=bool(args.lora)):  # the adapters are fp32
            hidden = model.model.packed_hidden(
                row.ids, row.positions, row.edges, max(row.lengths), row.trained
            )
            loss = linear_cross_entropy(
                hidden, model.lm_head.weight, row.targets, scale=1 / len(row.targets), chunk_rows=chunk
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        times.append(time.perf_counter() - began)
    flops = trained_model_flops(model, row.lengths, len(row.targets))
    return sorted(times[2:])[steps // 2], flops, loss.item()


def make_row(tokens: int, vocab: int, device: str) -> Row:
    """Documents of log-normal length (mean about 600 tokens), the second half of each trained."""
    draw, lengths = random.Random(0), []
    while sum(lengths) < tokens:
        lengths.append(min(max(int(draw.lognormvariate(6.0, 0.9)), 16), tokens - sum(lengths)))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    trained = [p for s, n in zip(starts, lengths, strict=True) for p in range(s + n // 2, s + n - 1)]
    ids = torch.randint(0, vocab, (tokens,), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in lengths])
    edges = torch.tensor([*starts, tokens], dtype=torch.int32)
    keep = torch.tensor(trained)
    moved = (t.to(device) for t in (ids, positions, edges))
    return Row(*moved, lengths, keep.to(device), ids[keep + 1].to(device))  # type: ignore[call-arg,arg-type]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def report(name: str, product: float, args: argparse.Namespace, lines: list[str]) -> str:
    weights = (
        f"bf16 weights frozen, LoRA r={args.lora} and AdamW in fp32"
        if args.lora
        else "bf16 weights and AdamW"
    )
    how = ["compiled layers"] * args.compile + ["activation checkpointing"] * args.checkpointing
    return "\n".join(
        [
            "# A full training step at GLM-4-9B's widths",
            "",
            f"`python benchmarks/gpu_train_step.py` on {name}, torch {torch.__version__}, {weights}"
            + (f", {', '.join(how)}." if how else "."),
            f"A large bf16 product beside it: {product / 1e12:,.0f} TFLOP/s.",
            "",
            "| tokens | layers | attention | loss chunk rows | tokens/s | of data sheet | of product | GiB | loss |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
