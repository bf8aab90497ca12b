"""`predict_chat` on a tiny model, and the files that it reads."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glm_train.predict.chat import predict_chat
from glm_train.predict.output import PredictOptions, Summary
from glm_train.trained_model import TrainedModel, load_trained
from support.runs import configure


@dataclass
class Predicting:
    """`predict_chat` on the tiny model."""

    trained: TrainedModel
    options: PredictOptions
    folder: Path

    def __call__(
        self, source: Path, output: str = "out.jsonl", *, resume: bool = False, **changes: Any
    ) -> Summary:
        options = replace(self.options, **changes)
        return predict_chat(self.trained, source, self.folder / output, options, resume=resume)

    def lines(self, output: str = "out.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / output).read_text().splitlines()]


def make_predicting(model: Path, chats: Path, folder: Path) -> Predicting:
    """Eight greedy tokens at most, into `folder`."""
    config = configure(model, chats, None)
    trained = load_trained(str(model), device="cpu")
    return Predicting(trained, PredictOptions(config, generation={"max_new_tokens": 8}), folder)


def write(path: Path, *records: Any) -> Path:
    path.write_text(
        "".join(f"{r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)}\n" for r in records)
    )
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
