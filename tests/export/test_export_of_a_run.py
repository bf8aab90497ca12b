"""From `fit` to a folder that answers as the run does, by the way that users go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm_train import run
from glm_train.text.chat import Conversation, Message, encode_prompt
from glm_train.trained_model import load_trained
from support.exported import logits
from support.reference import relative
from support.runs import configure

Exports = Callable[..., str]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_trained_run_answers_alike_before_and_after(
    tmp_path: Path, model_folder: Path, chat_file: Path, exports: Exports, adapter: str
) -> None:
    config = configure(
        model_folder, chat_file, tmp_path / "run", f"adapter={adapter}", trainer__max_epochs=8, optim__lr=0.02
    )
    run.fit(config, "test")
    exports(tmp_path / "run", tmp_path / "out")
    before, after = (load_trained(str(tmp_path / name)) for name in ("run", "out"))
    prompt = encode_prompt(before.tokenizer, Conversation((Message("user", "What is the weather?"),), None))
    ids = torch.tensor([prompt])
    assert relative(logits(after.model, ids), logits(before.model, ids)) < 1e-5
    texts = [
        found.tokenizer.decode(found.model.generate(ids, max_new_tokens=30, do_sample=False)[0])  # type: ignore[operator]
        for found in (before, after)
    ]
    assert texts[0] == texts[1]
    base = load_trained(str(model_folder))
    assert relative(logits(after.model, ids), logits(base.model, ids)) > 1e-2


def test_the_newest_of_a_folder_of_runs(
    tmp_path: Path, model_folder: Path, chat_file: Path, exports: Exports
) -> None:
    run.fit(configure(model_folder, chat_file, tmp_path / "runs" / "a", trainer__max_steps=2), "test")
    output = exports(tmp_path / "runs", tmp_path / "out")
    assert "the logits differ by 0 at most" in output
    before, after = (load_trained(str(p)) for p in (tmp_path / "runs" / "a", tmp_path / "out"))
    assert all(
        torch.equal(tensor, after.model.state_dict()[name])
        for name, tensor in before.model.state_dict().items()
    )
