"""Named entities from the same random weights: glm-train and transformers' Trainer, on the same batches.

    pip install -c constraints.txt -e ".[demo,test,bench]"
    python benchmarks/ner.py --data FOLDER    # with train.conll and validation.conll, such as those of WNUT-17

Both sides start from one folder, whose head is random, and take the same sentences in the same steps at the same
learning rate: fp32, AdamW without decay, gradients clipped at 1, no dropout. Ours packs a step's sentences into one
row; the Trainer pads them. The losses of every step are compared, then the entities that both models find in the
validation file, each word by its likeliest tag, scored by seqeval. Two longer runs of ours follow, one with causal and
one with bidirectional attention. The result is written to benchmarks/results/ner_cpu.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor

STEPS, SENTENCES, RATE = 100, 32, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder with train.conll, validation.conll"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--long", type=int, default=6, metavar="EPOCHS", help="of the two longer runs; 0: none"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ner_cpu.md")
    args = parser.parse_args()
    data = args.data.absolute()
    os.environ.setdefault("WANDB_MODE", "disabled")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["GLM_TRAIN_CACHE"] = scratch
        start = make_model(Path(scratch), data)
        print("ours", flush=True)
        ours = train_ours(start, data, Path("ours"), f"trainer.max_steps={args.steps}")
        print("transformers", flush=True)
        theirs, their_tags = train_theirs(start, data, args.steps)
        our_tags = predict(Path("ours/model"), data)
        longer = {}
        for bidirectional in (False, True) if args.long else ():
            print("bidirectional" if bidirectional else "causal", flush=True)
            name = Path(f"long-{bidirectional}")
            extra = (f"trainer.max_epochs={args.long}", f"model.bidirectional={bidirectional}".lower())
            train_ours(start, data, name, *extra, "schedule=cosine", "trainer.result=best")
            longer[bidirectional] = scores(name)
    text = report(args, ours, theirs, score(data, our_tags), score(data, their_tags), longer)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")
    print("\n" + text)


def make_model(scratch: Path, data: Path) -> Path:
    """The demo's tiny GLM with a random head for the labels of the data, and no dropout."""
    from glm_train import GlmForTokenClassification, GlmTokenizer
    from glm_train.data.token_labels import discover_tags
    from glm_train.demo.folder import make_demo

    make_demo(scratch / "demo")
    labels = discover_tags([data / "train.conll"]).labels
    torch.manual_seed(0)
    model = GlmForTokenClassification.from_pretrained(
        scratch / "demo" / "tiny-glm",
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        classifier_dropout=0.0,
    )
    model.save_pretrained(scratch / "start")
    GlmTokenizer.from_pretrained(scratch / "demo" / "tiny-glm").save_pretrained(scratch / "start")
    return scratch / "start"


def train_ours(start: Path, data: Path, output: Path, *extra: str) -> list[float]:
    """The losses of every step."""
    from glm_train.config.compose import compose
    from glm_train.run import fit

    settings = [
        f"model.path={start}",
        f"data.train={data / 'train.conll'}",
        f"data.validation={data / 'validation.conll'}",
        "data.max_length=512",
        "data.packing=false",
        "batch.tokens=null",
        f"batch.documents={SENTENCES}",
        f"optim.lr={RATE}",
        "optim.weight_decay=0",
        "schedule=constant",
        "schedule.warmup_ratio=0",
        "~schedule.min_lr_ratio",
        "model.bidirectional=false",
        "trainer.result=last",
        "trainer.max_epochs=null",
        "trainer.log_every=1",
        f"output_dir={output}",
    ]
    if "schedule=cosine" in extra:
        settings = [s for s in settings if s not in ("schedule=constant", "~schedule.min_lr_ratio")]
    kept = {s.split("=")[0] for s in extra}
    fit(compose("tiny_ner", [*(s for s in settings if s.split("=")[0] not in kept), *extra]), "ner")
    with (output / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def train_theirs(start: Path, data: Path, steps: int) -> tuple[list[float], list[list[str]]]:
    """The losses of every step of transformers' Trainer on our steps, and the tags that its model gives."""
    from transformers import GlmForTokenClassification, Trainer, TrainingArguments

    from glm_train import GlmTokenizer
    from glm_train.data.plan import plan_epoch
    from glm_train.data.token_examples import prepare_tokens

    model = GlmForTokenClassification.from_pretrained(start)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    tokenizer = GlmTokenizer.from_pretrained(start)
    train, held_out = (
        prepare_tokens([data / f"{part}.conll"], tokenizer, names, max_length=512, causal=True)
        for part in ("train", "validation")
    )
    batches: list[dict[str, Any]] = []
    epoch = 0
    while len(batches) < steps:
        plan = plan_epoch(
            train.lengths, train.trained, seed=0, epoch=epoch, microbatches_per_step=1, documents=SENTENCES
        )
        batches += [padded([train[i] for i in step.microbatches[0]]) for step in plan.steps]
        epoch += 1
    losses: list[float] = []

    class OnOurSteps(Trainer):
        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            losses.append(loss.item())  # its own log has four digits
            return loss

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(batches[:steps], batch_size=None, shuffle=False)

    arguments = TrainingArguments(
        "theirs",
        max_steps=steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    OnOurSteps(model, arguments, train_dataset=batches).train()
    return losses, tags_of(model.eval(), held_out, names)


def padded(examples: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """One batch, padded on the right."""
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(np.asarray(ids), dtype=torch.long) for ids, _ in examples]
    labels = [torch.tensor(np.asarray(labels), dtype=torch.long) for _, labels in examples]
    mask = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence(mask, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def predict(folder: Path, data: Path) -> list[list[str]]:
    """The tags of our model, through transformers' forward of the folder that the run left."""
    from transformers import GlmForTokenClassification

    from glm_train import GlmTokenizer
    from glm_train.data.token_examples import prepare_tokens

    model = GlmForTokenClassification.from_pretrained(folder).eval()
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    tokenizer = GlmTokenizer.from_pretrained(folder)
    store = prepare_tokens([data / "validation.conll"], tokenizer, names, max_length=512, causal=True)
    return tags_of(model, store, names)


@torch.no_grad()
def tags_of(model: Any, store: Any, names: list[str]) -> list[list[str]]:
    """Each word's likeliest tag, a list a sentence."""
    tags = []
    for begin in range(0, len(store), 64):
        batch = padded([store[i] for i in range(begin, min(begin + 64, len(store)))])
        likeliest = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
        for row, labels in zip(likeliest, batch["labels"], strict=True):
            tags.append([names[i] for i in row[labels != -100].tolist()])
    return tags


def score(data: Path, predicted: list[list[str]]) -> dict[str, float]:
    """seqeval's scores, strict."""
    from seqeval.metrics import f1_score, precision_score, recall_score
    from seqeval.scheme import IOB2

    from glm_train.data.readers.conll import read_conll

    gold = [item.value["tags"] for item in read_conll(data / "validation.conll")]
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    scored = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: float(function(gold, predicted, **strict)) for name, function in scored.items()}


def scores(run: Path) -> dict[str, float]:
    """The best validation of a run."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/f1")]
    best = max(rows, key=lambda row: float(row["val/f1"]))
    return {
        name: float(best[f"val/{name}"]) for name in ("f1", "precision", "recall", "f1_argmax", "accuracy")
    }


def report(
    args: argparse.Namespace,
    ours: list[float],
    theirs: list[float],
    our_score: dict[str, float],
    their_score: dict[str, float],
    longer: dict[bool, dict[str, float]],
) -> str:
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    shown = sorted({i for i in (0, 9, 49, 99, len(ours) - 1) if i < len(ours)})
    lines = [
        "# Named entities: glm-train and transformers' Trainer from the same weights",
        "",
        f"`python benchmarks/ner.py --data FOLDER` on {args.data.name}, {processor()},"
        f" torch {torch.__version__}. {args.steps} steps of {SENTENCES} sentences, fp32, learning rate {RATE:g}.",
        "",
        "| step | glm-train | transformers | apart |",
        "|---|---|---|---|",
        *(f"| {i + 1} | {ours[i]:.6f} | {theirs[i]:.6f} | {apart[i]:.1e} |" for i in shown),
        "",
        f"Greatest difference: {max(apart[:100]):.1e} over 100 steps, {max(apart):.1e} over all {len(apart)}.",
        "",
        "| entities of the validation file, likeliest tags, seqeval strict | F1 | precision | recall |",
        "|---|---|---|---|",
        *(
            f"| {name} | {s['f1']:.4f} | {s['precision']:.4f} | {s['recall']:.4f} |"
            for name, s in (("glm-train", our_score), ("transformers", their_score))
        ),
    ]
    if longer:
        lines += [
            "",
            f"The longer runs, {args.long} epochs, cosine schedule, best validation (tags under IOB2's rules, and each"
            " word's likeliest tag):",
            "",
            "| attention | F1 | precision | recall | F1 of the likeliest tags | accuracy of words |",
            "|---|---|---|---|---|---|",
            *(
                f"| {'bidirectional' if which else 'causal'} | "
                + " | ".join(
                    f"{s[name]:.4f}" for name in ("f1", "precision", "recall", "f1_argmax", "accuracy")
                )
                + " |"
                for which, s in longer.items()
            ),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
