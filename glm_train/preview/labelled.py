"""The preview of a run of classification, as text, JSON or a page."""

from __future__ import annotations

import html
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from glm_train.bar import progress_bar
from glm_train.build_data import build_tokenizer, prepare_data
from glm_train.data.weights import weigh
from glm_train.preview.labels import LabelPreview
from glm_train.preview.page import document
from glm_train.preview.steps import packing_of
from glm_train.run_plan import build_plan

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


class RunLabelPreview:
    """`LabelPreview` of the data that a run would train on, and how they become steps."""

    def __init__(self, config: RunConfig, leakage: float) -> None:
        tokenizer, model_config = build_tokenizer(config)
        with progress_bar() as progress:
            data = prepare_data(config, tokenizer, model_config, progress)
        assert data.labels is not None
        self.shown = LabelPreview(
            tokenizer, data.labels.names, data.problem, data.train, data.validation, leakage
        )
        weighed = weigh(data.train, data.weights, config.seed)
        self.packing = packing_of(build_plan(config, weighed), weighed)

    @property
    def faults(self) -> list[str]:
        return self.shown.report.faults

    def report_lines(self) -> list[str]:
        """The report in words, a subject a line."""
        return [*self.shown.report.lines(), *self.packing.lines()]

    def print_text(self, limit: int, *, colour: bool) -> None:
        """`limit` examples of each split, then the report."""
        for example in self.shown.examples(limit):
            window = f"  window {example.part}" if example.part else ""
            place = f"{example.split} {example.index}  {example.file}:{example.line}{window}"
            print(f"--- {place}  {len(example.input_ids):,} tokens")
            print(self.shown.line(example, colour=colour), end="\n\n")
        print("\n".join(self.report_lines()))

    def print_json(self, limit: int | None) -> None:
        """An object a line: each example, then the report."""
        for example in self.shown.examples(limit):
            print(json.dumps(self.shown.json(example), ensure_ascii=False))
        report = {**self.shown.report.as_json(), "packing": asdict(self.packing)}
        print(json.dumps({"report": report}, ensure_ascii=False))

    def page(self, limit: int, *, title: str) -> str:
        """One HTML page that needs nothing else."""
        examples = "".join(
            f"<h3>{example.split} {example.index}: {html.escape(example.file)}:{example.line}</h3>"
            f"<pre>{self.shown.html(example)}</pre>"
            for example in self.shown.examples(limit)
        )
        return document(title, self.faults, self.report_lines(), examples)
