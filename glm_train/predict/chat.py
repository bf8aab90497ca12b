"""Replies of a chat model to a file of chats: the answer to the last message of each.

    {"line": 1, "reply": {"role": "assistant", "content": "..."}, "stopped_by": "<|user|>", "tokens": 12}
    {"line": 2, "reply": {"role": "assistant", "tool_calls": [...]}, "stopped_by": "<|observation|>", "tokens": 9,
     "reference": {"role": "assistant", "tool_calls": [...]}}
    {"line": 3, "error": "messages[0]: ..."}

An answer that a record ends with is never shown to the model: it becomes the `reference`. `stopped_by` is null where
the reply reached the length limit; a reply is a message as data files have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.errors import ConfigError, DataError
from glm_train.generate import check_chat
from glm_train.predict.batches import Job, jobs_of
from glm_train.predict.chat_answers import Generation, Prompt, answer_prompts, prompt_of
from glm_train.predict.output import PredictOptions, Summary
from glm_train.predict.questions import question_in, question_items
from glm_train.predict.resumable import ResumableOutput, identity_of
from glm_train.text.answers import Answer, Reply, reply_of

if TYPE_CHECKING:
    from glm_train.trained_model import TrainedModel

WINDOW = 128  # records that are read, sorted into batches, answered and written together


def predict_chat(
    trained: TrainedModel, source: Path, output: Path, options: PredictOptions, *, resume: bool = False
) -> Summary:
    """Write a line for each record of `source`, in order, in memory that does not grow with the file.

    Replies are written to `OUT.part` window by window, and it becomes `output` when all are there. With `resume` an
    unfinished one is gone on with: the replies are then those of a run that was never stopped.

    Raises `ConfigError` for settings that do not fit, or are not those of the unfinished output, and `DataError` where
    no record can be answered.
    """
    check_chat(trained)
    data: Any = options.config.data
    asked_for = data.max_length if "data.max_length" in options.given else None
    limit = trained.model.config.max_position_embeddings
    if asked_for is not None and asked_for > limit:
        raise ConfigError(f"data.max_length={asked_for}: the model's context has {limit} tokens")
    encode = _Encoder(trained, source, data.format, asked_for)
    generation = Generation(options.generation, options.config.trainer.precision)
    settings = {
        "generation": {name: value for name, value in options.generation.items() if value is not None},
        "data.format": data.format,
        "data.max_length": asked_for,
        "trainer.precision": generation.precision,
        "device": options.device,
        "model": identity_of(trained.folder),
    }
    with ResumableOutput(output, source, settings, resume=resume, overwrite=options.overwrite) as file:
        if file.finished:
            return file.summary
        jobs = jobs_of(question_items(source), encode)
        for number, window in enumerate(_windows(jobs)):
            file.summary.incomplete = window[-1].ends_here
            first = number * WINDOW
            if first + len(window) <= file.lines:
                continue
            skip = max(file.lines - first, 0)
            for job, answer in _answered(trained, window, generation, number, skip):
                _write(file, job, answer)
            file.flush()
            options.progress("records", first + len(window), 0)
    return file.summary


@dataclass(frozen=True)
class _Asked:
    prompt: Prompt
    reference: Reply | None


class _Encoder:
    """A record becomes a job with its prompt; one that is too long is a fault."""

    def __init__(self, trained: TrainedModel, source: Path, format: str, asked_for: int | None) -> None:
        self._tokenizer, self._source, self._format = trained.tokenizer, source, format
        self._limit, self._asked_for = trained.model.config.max_position_embeddings, asked_for

    def __call__(self, value: dict[str, Any]) -> Job:
        question = question_in(self._source, value, self._format)
        prompt = prompt_of(self._tokenizer, question.conversation)
        size = len(prompt.ids)
        if self._asked_for is not None and size > self._asked_for:
            raise DataError(
                f"its {size:,} tokens are more than data.max_length={self._asked_for}; shorten it"
            )
        if size >= self._limit:
            raise DataError(
                f"its {size:,} tokens leave no room for an answer in the model's context of {self._limit:,}; shorten it"
            )
        reference = reply_of(question.reference) if question.reference else None
        return Job(0, what=_Asked(prompt, reference))


def _windows(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    while window := list(islice(jobs, WINDOW)):
        yield window


def _answered(
    trained: TrainedModel, window: list[Job], generation: Generation, number: int, skip: int
) -> Iterator[tuple[Job, Answer | None]]:
    """The jobs of a window from the `skip`-th on, with their answers; of what cannot be read, None."""
    places = [i for i, job in enumerate(window) if not job.error]
    prompts = [window[i].what.prompt for i in places]
    wanted = {n for n, place in enumerate(places) if place >= skip}
    made = dict(answer_prompts(trained, prompts, generation, wanted=wanted, salt=number))
    answers = {places[n]: answer for n, answer in made.items()}
    for place, job in enumerate(window):
        if place >= skip:
            yield job, answers.get(place)


def _write(file: ResumableOutput, job: Job, answer: Answer | None) -> None:
    if answer is None:
        file.fault(job.line, job.error)
        return
    value: dict[str, Any] = {
        "reply": answer.reply.as_message(),
        "stopped_by": answer.stopped_by,
        "tokens": answer.tokens,
    }
    if job.what.reference is not None:
        value["reference"] = job.what.reference.as_message()
    file.write(job.line, value)
