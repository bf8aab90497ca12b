"""From a file of chats to packed training examples: TRL and glm-train, side by side.

    pip install -c constraints.txt -e ".[demo,bench]"
    python benchmarks/preparation.py         # writes benchmarks/results/preparation_cpu.md

Both read the same JSON Lines file with the same tokenizer and template, mask everything but the assistant, and pack to
1,024 tokens; nothing is cached beforehand. Each side runs in a process of its own, in turn, and is timed from the call
that opens the file to the last packed row, without its imports: as it comes (TRL in one process, ours in one for each
core), then with one process each and two each. Our plan alone is timed on length distributions besides: documents a
second, and how full the packed rows are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cpu_vs_trl import make_inputs
from machine import processor

LENGTH = 1024
PROCESSES = {0: "as they come", 1: "one process each", 2: "two processes each"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chats", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "preparation_cpu.md"
    )
    args = parser.parse_args()
    if args.side:
        print(json.dumps(SIDES[args.side](args.folder, args.processes)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_inputs(Path(scratch), 8192, chats=args.chats)
        found: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for _ in range(args.rounds):
            for processes in PROCESSES:
                for side in SIDES:
                    result = run_side(side, folder, processes)
                    found.setdefault((processes, side), []).append(result)
                    print(processes, side, result, flush=True)
    text = report(found, args.chats)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")
    print("\n" + text)


def run_side(side: str, folder: Path, processes: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    done = subprocess.run([*command, "--processes", str(processes)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_ours(folder: Path, processes: int) -> dict[str, Any]:
    from glm_train.data.encode import usable_cores
    from glm_train.data.plan import plan_epoch
    from glm_train.data.prepare import prepare_chat
    from glm_train.text.tokenizer import GlmTokenizer

    tokenizer = GlmTokenizer.from_pretrained(folder / "model")
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        store = prepare_chat(
            [folder / "chats.jsonl"],
            tokenizer,
            max_length=LENGTH,
            cache_dir=cache,
            workers={0: usable_cores(), 1: 0}.get(processes, processes),
        )
        plan = plan_epoch(
            store.lengths, store.trained, seed=0, epoch=0, microbatches_per_step=1, token_budget=LENGTH
        )
        seconds = time.perf_counter() - began
        return {
            "seconds": round(seconds, 2),
            "tokens": int(store.lengths.sum()),
            "trained": int(store.trained.sum()),
            "rows": len(plan),
        }


def run_trl(folder: Path, processes: int) -> dict[str, Any]:
    """TRL's own preparation: what SFTTrainer does to its dataset when it is made."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    with tempfile.TemporaryDirectory() as scratch:
        few = Path(scratch) / "few.jsonl"
        lines = (folder / "chats.jsonl").read_text(encoding="utf-8").splitlines()[:4]
        few.write_text("\n".join(lines) + "\n", encoding="utf-8")
        args = SFTConfig(
            output_dir=scratch,
            max_length=LENGTH,
            packing=True,
            assistant_only_loss=True,
            dataset_num_proc=None if processes < 2 else processes,
            use_cpu=True,
            bf16=False,
            report_to=[],
        )

        def load(path: Path) -> Any:
            return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=scratch)

        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder / "model"),
            processing_class=tokenizer,
            train_dataset=load(few),
            args=args,
        )
        began = time.perf_counter()
        made = trainer._prepare_dataset(load(folder / "chats.jsonl"), tokenizer, args, True, None, "train")
        seconds = time.perf_counter() - began
        sizes = [len(row) for row in made["input_ids"]]
        column = "assistant_masks" if "assistant_masks" in made.column_names else "labels"
        trained = sum(sum(value not in (0, -100) for value in row) for row in made[column])
        return {
            "seconds": round(seconds, 2),
            "tokens": sum(sizes),
            "trained": trained,
            "rows": len(sizes),
        }


def plan_rows() -> list[str]:
    """Speed and fill of the plan alone on three length distributions."""
    import numpy as np

    from glm_train.data.plan import plan_epoch

    draw = np.random.default_rng(0)
    kinds = {
        "log-normal, median 300, spread 0.9": draw.lognormal(5.7, 0.9, 200_000),
        "log-normal, median 80, spread 0.5": draw.lognormal(4.4, 0.5, 200_000),
        "even from 16 to 4,096": draw.integers(16, 4097, 200_000),
    }
    rows = []
    for name, values in kinds.items():
        for budget in (4096, 32768):
            lengths = np.clip(values, 8, 4096).astype(np.int64)
            rates, fill = [], 0.0
            for epoch in range(5):
                began = time.perf_counter()
                plan = plan_epoch(
                    lengths, lengths, seed=0, epoch=epoch, microbatches_per_step=8, token_budget=budget
                )
                rates.append(len(lengths) / (time.perf_counter() - began))
                fill = lengths.sum() / (budget * sum(len(step.microbatches) for step in plan.steps))
            rows.append(f"| {name} | {budget:,} | {statistics.median(rates):,.0f} | {fill:.2%} |")
    return rows


def report(found: dict[tuple[int, str], list[dict[str, Any]]], chats: int) -> str:
    import datasets
    import trl

    lines = [
        "# From chats to packed examples on one CPU",
        "",
        f"`python benchmarks/preparation.py`: {chats:,} ragged chats, packed to {LENGTH:,} tokens, nothing cached.",
        "Medians of the runs, which took turns; the ratio is the median of those of neighbouring runs, with the",
        "smallest and largest.",
        "",
        f"{processor()}; TRL {trl.__version__}, datasets {datasets.__version__}.",
        "",
        "| | TRL, chats/s | ours, chats/s | ours / TRL | rows of TRL | rows of ours |",
        "|---|---|---|---|---|---|",
    ]
    for processes in sorted({processes for processes, _ in found}):
        theirs, ours = found[processes, "trl"], found[processes, "ours"]
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(theirs, ours, strict=True)]
        rates = [chats / statistics.median(r["seconds"] for r in side) for side in (theirs, ours)]
        lines.append(
            f"| {PROCESSES[processes]} | {rates[0]:,.0f} | {rates[1]:,.0f} | {statistics.median(ratios):.2f}x"
            f" ({min(ratios):.2f} to {max(ratios):.2f}) | {theirs[0]['rows']:,} | {ours[0]['rows']:,} |"
        )
    lines += ["", "The plan alone, 200,000 documents:", "", "| lengths | row, tokens | documents/s | full |"]
    return "\n".join([*lines, "|---|---|---|---|", *plan_rows()]) + "\n"


SIDES = {"trl": run_trl, "ours": run_ours}

if __name__ == "__main__":
    main()
