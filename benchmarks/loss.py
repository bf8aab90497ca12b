"""The loss of a language-model head: textbook, torch's fused one and ours, side by side in one run.

    python benchmarks/loss.py                  # the CPU, or the GPU where there is one
    python benchmarks/loss.py --device cpu --rows 1000 --rounds 5

Forward and backward, hidden states and head both trained. The contenders take turns, round after round, and the
fastest round of each counts, so that a busy machine is fair to all. Memory is the peak above the inputs, gradients
included. Masked rows are what a prompt is: the textbook and torch compute them and ignore the result, ours receives
only the trained rows, and gathering them is part of its time. Writes benchmarks/results/loss_<device>.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import processor
from torch import Tensor
from torch.nn import functional as F

from glm_train.losses.linear_cross_entropy import linear_cross_entropy

IGNORED = -100
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Results = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Case:
    """M rows of hidden size H against V classes, `masked` of them without a target."""

    vocab: int
    hidden: int
    rows: int
    masked: float
    device: str

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        hidden_MH = torch.randn(self.rows, self.hidden, device=self.device).mul_(0.5).to(dtype)
        weight_VH = torch.randn(self.vocab, self.hidden, device=self.device).mul_(0.02).to(dtype)
        targets_M = torch.randint(self.vocab, (self.rows,), device=self.device)
        targets_M[torch.randperm(self.rows, device=self.device)[: round(self.masked * self.rows)]] = IGNORED
        return hidden_MH.requires_grad_(), weight_VH.requires_grad_(), targets_M


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8192, 151552])
    parser.add_argument("--hidden", type=int, help="default: 256 on a CPU, 4096 elsewhere")
    parser.add_argument("--rows", type=int, help="default: 1000 on a CPU, 8192 elsewhere")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/loss_<device>.md")
    args = parser.parse_args()
    cpu = args.device == "cpu"
    hidden, rows = args.hidden or (256 if cpu else 4096), args.rows or (1000 if cpu else 8192)
    compared = {}
    for vocab in args.vocabulary:
        for masked in (0.0, 0.5, 0.9):
            case = Case(vocab, hidden, rows, masked, args.device)
            compared[case] = measure(case, contenders(), args.rounds)
            print(case, compared[case], flush=True)
    sizes = (32, 64, 128, 256, 512) if cpu else (128, 256, 512, 1024, 2048, 4096)
    largest = Case(max(args.vocabulary), hidden, rows, 0.0, args.device)
    swept = measure(largest, {str(n): ours(n) for n in sizes} | {"default": ours(None)}, args.rounds)
    output = args.output or Path(__file__).parent / "results" / f"loss_{args.device}.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(report(compared, largest, swept, args.rounds), encoding="utf-8")
    print(f"wrote {output}")


def contenders() -> dict[str, Loss]:
    found: dict[str, Loss] = {"F.cross_entropy on all logits": textbook}
    if hasattr(F, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found["F.linear_cross_entropy"] = torchs_fused
    return found | {"glm-train": ours(None)}


def textbook(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> Tensor:
    logits_MV = (hidden_MH @ weight_VH.t()).float()
    return F.cross_entropy(logits_MV, targets_M, reduction="sum", ignore_index=IGNORED)


def torchs_fused(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(
        hidden_MH, weight_VH, targets_M, reduction="sum", ignore_index=IGNORED, options=options
    )


def ours(chunk_rows: int | None) -> Loss:
    def loss(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> Tensor:
        trained = (targets_M != IGNORED).nonzero()[:, 0]
        return linear_cross_entropy(hidden_MH[trained], weight_VH, targets_M[trained], chunk_rows=chunk_rows)

    return loss


def measure(case: Case, losses: dict[str, Loss], rounds: int) -> Results:
    """Least milliseconds and peak MiB of each loss. The first round warms up and measures memory only."""
    inputs = case.inputs()
    times: dict[str, list[float]] = {name: [] for name in losses}
    peaks, values = {}, {}
    for turn in range(rounds + 1):
        for name, loss in losses.items():
            inputs[0].grad = inputs[1].grad = None
            before = start_peak(case.device)
            seconds, values[name] = step(loss, *inputs)
            if turn == 0:
                peaks[name] = peak(case.device) - before
            else:
                times[name].append(seconds * 1e3)
    reference = next(iter(values.values()))
    for name, value in values.items():
        assert abs(value / reference - 1) < 1e-3, f"{name} computes {value}, not {reference}"
    return {name: (min(times[name]), peaks[name] / 2**20) for name in losses}


def step(loss: Loss, hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> tuple[float, float]:
    wait(hidden_MH.device)
    begin = time.perf_counter()
    value = loss(hidden_MH, weight_VH, targets_M)
    value.backward()
    wait(hidden_MH.device)
    return time.perf_counter() - begin, value.item()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def start_peak(device: str) -> int:
    """Bytes in use, from which the peak is counted anew."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(
        0
    )  # gives freed memory back, which would hide what the next contender takes
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark of the resident set
    return resident("VmRSS")


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def report(compared: dict[Case, Results], largest: Case, swept: Results, rounds: int) -> str:
    any_case = next(iter(compared))
    dtype = "fp32" if any_case.device == "cpu" else "bf16"
    lines = [
        "# Loss of the language-model head",
        "",
        f"`python benchmarks/loss.py` on {machine(any_case.device)}; torch {torch.__version__}, Python"
        f" {platform.python_version()}. Forward and backward, {dtype}, {any_case.rows:,} rows, H ="
        f" {any_case.hidden:,}; fastest of {rounds} rounds in which the contenders take turns. Memory: peak"
        " above the inputs, the gradients included.",
        "",
        "| V | masked | loss | ms | MiB | speed-up |",
        "|---:|---:|---|---:|---:|---:|",
    ]
    for case, results in compared.items():
        base = next(iter(results.values()))[0]
        lines += [
            f"| {case.vocab:,} | {case.masked:.0%} | {name} | {ms:,.0f} | {mib:,.0f} | {base / ms:.1f} |"
            for name, (ms, mib) in results.items()
        ]
    lines += [
        "",
        f"Rows of a chunk, V = {largest.vocab:,}, nothing masked:",
        "",
        "| rows | ms | MiB |",
        "|---:|---:|---:|",
    ]
    lines += [f"| {name} | {ms:,.0f} | {mib:,.0f} |" for name, (ms, mib) in swept.items()]
    return "\n".join([*lines, ""])


def machine(device: str) -> str:
    """The processor, by its kind only."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of one {processor()}"


if __name__ == "__main__":
    main()
