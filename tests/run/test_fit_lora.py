"""Runs with `adapter=lora`, for each task: what is trained, what is left behind, and that they go on exactly."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glm_train import GlmTokenizer, run
from glm_train.errors import ConfigError
from glm_train.trained_model import load_trained
from support.adapted import peft_model
from support.classifier_folder import write_lines
from support.fitted import KEEPS_ALL, configured, ends_as_if_never_stopped, logits_of, result, scalars, state

TASKS = ("chat", "sequence_classification", "token_classification")
SENTENCES = [
    ("Anna sings in Paris", ["B-PER", "O", "O", "B-LOC"], "song"),
    ("Bob is in Rio", ["B-PER", "O", "O", "B-LOC"], "place"),
    ("Paris is fine", ["B-LOC", "O", "O"], "place"),
    ("Sing it to Bob", ["O", "O", "O", "B-PER"], "song"),
]
LABELS = {
    "sequence_classification": ["place", "song"],
    "token_classification": ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"],
}
HEADS = {
    "chat": "GlmForCausalLM",
    "sequence_classification": "GlmForSequenceClassification",
    "token_classification": "GlmForTokenClassification",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, chat_file: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "chat": chat_file,
        "sequence_classification": write_lines(
            folder / "texts.jsonl", [{"text": text, "label": label} for text, _, label in SENTENCES]
        ),
        "token_classification": write_lines(
            folder / "words.jsonl", [{"tokens": text.split(), "tags": tags} for text, tags, _ in SENTENCES]
        ),
    }


def lora(task: str, model: Path, data: dict[str, Path], output: Path, **settings: Any) -> Any:
    shared = {"data__max_length": 96, "data__validation": data[task], "adapter__r": 4, "adapter__alpha": 8}
    return configured(task, model, data[task], output, adapter="lora", **{**shared, **settings})


def transformers_base(task: str, base: Path) -> Any:
    """transformers' model of the base, with the head that the adapter's folder brings."""
    import transformers

    names = LABELS.get(task)
    head = {} if names is None else {"num_labels": len(names), "id2label": dict(enumerate(names))}
    kind = transformers.GlmForCausalLM if names is None else getattr(transformers, HEADS[task])
    return kind.from_pretrained(base, **head)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat", {}),
    "texts": ("sequence_classification", {"adapter__dropout": 0.1}),
    "words": ("token_classification", {"adapter__lr_ratio": 8}),
    "dora": ("chat", {"adapter__dora": True}),
    "rslora": ("sequence_classification", {"adapter__rslora": True}),
    "pissa": ("token_classification", {"adapter__init": "pissa"}),
    "norms": (
        "chat",
        {"adapter__modules_to_save": ["input_layernorm"], "adapter__targets": ["q_proj", "v_proj"]},
    ),
    "new-tokens": ("chat", {"adapter__new_tokens": ["<|user|>", "<|observation|>"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_peft_loads_the_result_and_gives_the_same_scores(
    tmp_path: Path, model_folder: Path, data: dict[str, Path], case: str
) -> None:
    task, settings = CASES[case]
    config = lora(task, model_folder, data, tmp_path / "run", trainer__max_steps=2, **settings)
    assert run.fit(config, "test").metrics["val/loss"] > 0
    ours = load_trained(str(tmp_path / "run")).model
    theirs = peft_model(transformers_base(task, model_folder), tmp_path / "run" / "model")
    tokenizer = GlmTokenizer.from_pretrained(tmp_path / "run" / "model")
    documents = [tokenizer(text)["input_ids"] for text, *_ in SENTENCES]
    plain = logits_of(transformers_base(task, model_folder), documents)
    moved = []
    for mine, expected, before in zip(
        logits_of(ours, documents), logits_of(theirs, documents), plain, strict=True
    ):
        assert torch.allclose(mine, expected, atol=2e-5)
        moved.append(float((mine - before).abs().max()))
    assert max(moved) > 1e-3  # it is not the base that both show
    if case == "norms":
        assert any("input_layernorm" in name for name in result(tmp_path / "run"))
    if case == "new-tokens":
        assert json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())[
            "trainable_token_indices"
        ]


@pytest.mark.parametrize("task", LABELS)
def test_labels_are_left_beside_the_adapter(
    tmp_path: Path, model_folder: Path, data: dict[str, Path], task: str
) -> None:
    run.fit(lora(task, model_folder, data, tmp_path / "run", trainer__max_steps=1), "test")
    trained = load_trained(str(tmp_path / "run"))
    assert trained.task == task
    assert list(trained.model.config.id2label.values()) == LABELS[task]
    assert any("score" in name for name in result(tmp_path / "run"))


def test_only_the_adapter_is_trained_and_saved(
    tmp_path: Path, model_folder: Path, data: dict[str, Path]
) -> None:
    run.fit(lora("chat", model_folder, data, tmp_path / "run", trainer__max_steps=2), "test")
    names = list(result(tmp_path / "run"))
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    trained = [name for name in state(tmp_path / "run", 2) if name.startswith("model.safetensors/")]
    assert len(trained) == len(names)
    assert all("lora_" in name for name in trained)


def test_a_rate_of_its_own_for_b(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    """After one step of AdamW, B (zero at first) is as large as its learning rate."""
    sizes = {}
    for name, ratio in (("equal", None), ("larger", 4)):
        config = lora(
            "chat",
            model_folder,
            data,
            tmp_path / name,
            trainer__max_steps=1,
            adapter__lr_ratio=ratio,
            optim__weight_decay=0,
        )
        run.fit(config, "test")
        sizes[name] = max(
            float(np.abs(tensor).max()) for key, tensor in result(tmp_path / name).items() if "lora_B" in key
        )
    assert sizes["larger"] / sizes["equal"] == pytest.approx(4, rel=0.01)


@pytest.fixture(scope="module")
def stopped_anywhere(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path, data: dict[str, Path]
):
    """Runs with dropout of attention and adapter, accumulation and LoRA+ that kept the state of every step."""
    from support.model_folder import make_model_folder

    folder = tmp_path_factory.mktemp("exact")
    model = make_model_folder(folder / "model", tiny_tokenizer_folder, attention_dropout=0.2)

    def config(task: str, output: Path, **settings: Any) -> Any:
        return lora(
            task,
            model,
            data,
            output,
            adapter__dropout=0.3,
            adapter__lr_ratio=4,
            adapter__dora=task == "chat",
            adapter__init="pissa" if task == "sequence_classification" else "default",
            batch__documents=1,
            batch__accumulate=2,
            trainer__max_steps=5,
            trainer__validate_every=2,
            **KEEPS_ALL,
            **settings,
        )

    for task in ("chat", "sequence_classification"):
        run.fit(config(task, folder / task), "test")
    return folder, config


@pytest.mark.parametrize(("task", "step"), [("chat", 1), ("chat", 4), ("sequence_classification", 2)])
def test_a_resumed_run_ends_as_if_never_stopped(stopped_anywhere, task: str, step: int) -> None:
    folder, config = stopped_anywhere
    ends_as_if_never_stopped(partial(config, task), folder / task, folder / f"{task}-{step}", step)


def test_the_best_adapter_is_kept(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    opposite = [
        {"text": text, "label": "song" if label == "place" else "place"} for text, _, label in SENTENCES
    ]
    config = lora(
        "sequence_classification",
        model_folder,
        data,
        tmp_path / "run",
        data__validation=write_lines(tmp_path / "held.jsonl", opposite),
        task__metric="val/loss",
        trainer__max_steps=6,
        trainer__validate_every=1,
        **KEEPS_ALL,
    )
    run.fit(config, "test")
    losses = scalars(tmp_path / "run", "val/loss")
    best = min(losses, key=lambda step: losses[step])
    assert best < 6
    kept = result(tmp_path / "run")["base_model.model.score.weight"]
    score = "model.safetensors/score.weight"
    assert np.array_equal(kept, state(tmp_path / "run", best)[score])
    assert not np.array_equal(kept, state(tmp_path / "run", 6)[score])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapter__targets": ["q_prj"]}, r"adapter\.targets.*q_prj.*q_proj"),
        ({"adapter__modules_to_save": ["nrm"]}, r"adapter\.modules_to_save.*nrm"),
        ({"adapter__new_tokens": ["<|uesr|>"]}, r"adapter\.new_tokens.*uesr"),
        ({"adapter__init": "pissa", "adapter__r": 64}, r"adapter\.r"),
    ],
)
def test_what_the_model_has_not_is_refused_with_what_it_has(
    tmp_path: Path, model_folder: Path, data: dict[str, Path], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        run.fit(lora("chat", model_folder, data, tmp_path / "run", **settings), "test")
    assert not (tmp_path / "run").exists()


def test_another_adapter_is_not_resumed_into(stopped_anywhere) -> None:
    import dataclasses

    folder, config = stopped_anywhere
    asked = config("chat", folder / "chat", resume="auto")
    other = dataclasses.replace(asked, adapter=dataclasses.replace(asked.adapter, r=8))
    with pytest.raises(ConfigError, match="plan of steps has changed") as error:
        run.fit(other, "test")
    assert "'r': 4" in str(error.value)
