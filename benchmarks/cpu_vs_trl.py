"""The same tiny GLM folder, the same chats, the same optimizer steps: TRL's SFTTrainer and glm-train, side by side.

    pip install -c constraints.txt -e ".[demo,bench]"
    python benchmarks/cpu_vs_trl.py          # both vocabularies; writes benchmarks/results/cpu_vs_trl.md
    python benchmarks/cpu_vs_trl.py --lora 8 --vocabulary 8192     # writes cpu_vs_trl_lora.md

Each side trains in a process of its own, in turn, several times. fp32, four chats a step, at most 1,024 tokens a
chat, loss on the assistant's tokens only, AdamW. TRL runs twice: as it comes, with activation checkpointing, and
without it, as we run. With `--lora R` both train adapters of rank R on every linear layer of the decoder, and ours
without adapters runs beside them. Chats are ragged: their lengths are log-normal with a median of 300 tokens and a
spread of 0.9. Speed counts real tokens, never padding, from the third step on. Memory is the largest resident set of
the process.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from machine import processor

WARM_STEPS = 2
MEDIAN_LOG, SPREAD = 5.7, 0.9  # log-normal lengths: median 300 tokens, a 99th percentile of eight times that
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 896,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8192, 151552])
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="rank of adapters; 0: all weights")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(SIDES[args.side](args.folder, args.steps, args.lora)))
        return
    sides = [*SIDES] if args.lora else [side for side in SIDES if side != "ours_full"]
    name = "cpu_vs_trl_lora.md" if args.lora else "cpu_vs_trl.md"
    output = args.output or Path(__file__).parent / "results" / name
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for vocabulary in args.vocabulary:
            folder = make_inputs(
                Path(scratch) / str(vocabulary), vocabulary, chats=4 * steps(args, vocabulary)
            )
            results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for _ in range(rounds(args, vocabulary)):
                for side, found in results.items():
                    found.append(run_side(side, folder, steps(args, vocabulary), args.lora))
                    print(vocabulary, side, found[-1], flush=True)
            rows.append((vocabulary, results))
    text = report(rows, args)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print("\n" + text)


def make_inputs(folder: Path, vocabulary: int, chats: int) -> Path:
    """A model folder and a file of multi-turn chats with ragged lengths, made of the demo's conversations."""
    import torch

    from glm_train import GlmConfig, GlmForCausalLM, GlmTokenizer
    from glm_train.demo.folder import make_demo

    make_demo(folder / "demo")
    source = folder / "demo" / "tiny-glm"
    values = {**GlmConfig.from_pretrained(source).to_dict(), **SHAPE, "vocab_size": vocabulary}
    torch.manual_seed(0)
    GlmForCausalLM(GlmConfig.from_dict(values)).save_pretrained(folder / "model")
    tokenizer = GlmTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    lines = (folder / "demo" / "chat" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    pool = [json.loads(line)["messages"] for line in lines]
    draw = random.Random(0)
    with (folder / "chats.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(chats):
            target, messages, tokens = min(draw.lognormvariate(MEDIAN_LOG, SPREAD), 980), [], 0
            while True:
                more = draw.choice(pool)
                tokens += sum(len(tokenizer.encode(m["content"])) + 2 for m in more)
                if messages and tokens > target:
                    break
                messages += more
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return folder


# The demo's template for these chats, with `{% generation %}` around what the assistant says: TRL finds the trained
# tokens by it. It cannot find the stop token, which GLM's template renders as the header of the next turn.
TEMPLATE = (
    "[gMASK]<sop>"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% generation %}\n{{ message['content'] }}{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>\n{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def run_side(side: str, folder: Path, steps: int, lora: int) -> dict[str, Any]:
    options = {"--side": side, "--folder": folder, "--steps": steps, "--lora": lora}
    command = [sys.executable, __file__, *(str(part) for option in options.items() for part in option)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(stamps: list[float], tokens: list[int], losses: list[float]) -> dict[str, Any]:
    """Speed after the warm steps, and the process's peak. `stamps[i]` is when step i ended."""
    seconds = stamps[-1] - stamps[WARM_STEPS - 1]
    return {
        "tokens_per_second": round(sum(tokens[WARM_STEPS:]) / seconds, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "tokens": sum(tokens[WARM_STEPS:]),
    }


def run_ours(folder: Path, steps: int, lora: int) -> dict[str, Any]:
    """Our own command, with a callback that looks at the clock."""
    from lightning.pytorch import Callback

    from glm_train import build, run
    from glm_train.config.compose import compose

    stamps, tokens, losses = [], [], []

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Any, task: Any, *_: Any) -> None:
            stamps.append(time.perf_counter())
            tokens.append(task.last.tokens)
            losses.append(float(task.last.loss))

    trainer = build.build_trainer
    build.build_trainer = lambda config, folder, callbacks, *rest, **named: trainer(
        config, folder, [Clock(), *callbacks], *rest, **named
    )
    settings = {
        "model.path": folder / "model",
        "data.train": folder / "chats.jsonl",
        "data.max_length": 1024,
        "data.cache_dir": folder / "cache",
        "batch.documents": 4,
        "trainer.max_steps": steps,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.save_every": 10**6,
        "output_dir": tempfile.mkdtemp(dir=folder) + "/run",
    }
    adapter = ["adapter=lora", f"adapter.r={lora}", f"adapter.alpha={2 * lora}"] if lora else []
    config = compose("chat_smoke", [*adapter, *(f"{key}={value}" for key, value in settings.items())])
    run.fit(config, "benchmark")
    return measured(stamps, tokens, losses)


def run_trl(folder: Path, steps: int, lora: int, checkpointing: bool) -> dict[str, Any]:
    """TRL's SFTTrainer on transformers' model, with the settings that its documentation gives for this."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    stamps, tokens, losses = [], [], []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            stamps.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *rest)

    adapter = None
    if lora:
        from peft import LoraConfig

        adapter = LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    trainer = Counting(
        peft_config=adapter,
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        processing_class=tokenizer,
        train_dataset=load_dataset("json", data_files=str(folder / "chats.jsonl"), split="train"),
        callbacks=[Clock()],
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(dir=folder),
            max_length=1024,
            per_device_train_batch_size=4,
            max_steps=steps,
            assistant_only_loss=True,
            gradient_checkpointing=checkpointing,
            learning_rate=1e-5,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.train()
    return measured(stamps, tokens, losses)


def report(rows: list[tuple[int, dict[str, list[dict[str, Any]]]]], args: argparse.Namespace) -> str:
    import lightning
    import torch
    import transformers
    import trl

    parts = (torch, lightning, transformers, trl)
    versions = ", ".join(f"{part.__name__} {part.__version__}" for part in parts)
    full = " ours, all weights |" if args.lora else ""
    command = f" --lora {args.lora}" if args.lora else ""
    lines = [
        "# glm-train and TRL on one CPU" + (f": LoRA of rank {args.lora}" if args.lora else ""),
        "",
        f"`python benchmarks/cpu_vs_trl.py{command}`: fp32, a GLM body of 5.1 M parameters (hidden 256, 6",
        "layers), 4 ragged chats a step, at most 1,024 tokens a chat, assistant-only loss, AdamW.",
        '"TRL" is TRL as it comes (with activation checkpointing), "TRL, no ckpt" without it, as we run.',
        "Medians of the runs, which took turns; ratios are medians of the ratios of neighbouring runs, with",
        "the smallest and largest. "
        f"{processor()}, {torch.get_num_threads()} threads; {versions}, Python {platform.python_version()}.",
        "",
        f"| vocabulary | | TRL | TRL, no ckpt | ours |{full} ours / TRL | ours / TRL, no ckpt |"
        + (" ours / all weights |" if args.lora else ""),
        "|---|---|---|---|---|---|---|" + ("---|---|" if args.lora else ""),
    ]
    for vocabulary, results in rows:
        for key, unit in (("tokens_per_second", "tokens/s"), ("peak_gb", "peak GB")):
            values = {side: [run[key] for run in found] for side, found in results.items()}
            cells = [
                f"{statistics.median(found):,.{0 if unit == 'tokens/s' else 2}f}" for found in values.values()
            ]
            ratios = [
                _ratio(values["ours"], values[side])
                for side in ("trl_default", "trl", "ours_full")
                if side in values
            ]
            runs = f"{len(values['ours'])} runs of {steps(args, vocabulary)} steps"
            label = f"{vocabulary:,} ({runs})" if unit == "tokens/s" else ""
            lines.append(f"| {label} | {unit} | {' | '.join(cells)} | {' | '.join(ratios)} |")
    return "\n".join(lines) + "\n"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def steps(args: argparse.Namespace, vocabulary: int) -> int:
    """Steps of a run: fewer at a large vocabulary, where a step of TRL takes half a minute."""
    return args.steps if vocabulary < 50_000 else min(args.steps, 6)


def rounds(args: argparse.Namespace, vocabulary: int) -> int:
    """Runs of each side: likewise."""
    return args.rounds if vocabulary < 50_000 else max(args.rounds // 3, 1)


SIDES = {
    "trl_default": partial(run_trl, checkpointing=True),
    "trl": partial(run_trl, checkpointing=False),
    "ours": run_ours,
    "ours_full": lambda folder, steps, _lora: run_ours(folder, steps, 0),
}

if __name__ == "__main__":
    main()
