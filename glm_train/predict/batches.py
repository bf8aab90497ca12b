"""A stream of records through a model: packed by tokens, answered in their order, in constant memory.

    records   a     b     c     d     (c cannot be read, b is long)
    packed    [a  b1  b2] [b3  d]     at most `BATCH_TOKENS` tokens and `BATCH_DOCUMENTS` documents
    answers   a     b     c     d     each when its last document is scored and those before it are out

T tokens, M positions that are read, H hidden, L labels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glm_train.data.readers.json_lines import text_lines
from glm_train.data.readers.json_text import decode_utf8
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import DataError
from glm_train.predict.output import PredictOptions, Summary, output_file

if TYPE_CHECKING:
    from glm_train.checkpoint.pretrained import Pretrained
    from glm_train.trained_model import TrainedModel

BATCH_TOKENS = 16_384
BATCH_DOCUMENTS = 64
NOT_FINITE = "the model's scores for it are infinite or no numbers; the weights have diverged"


@dataclass
class Job:
    """A record to be answered: documents of ids (T,) with the positions (M,) that are read, or what is wrong.

    `what` is for whoever turns the scores into an answer. `ends_here` is a fault behind which the file cannot be read.
    """

    line: int
    documents: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    error: str = ""
    what: Any = None
    ends_here: bool = False


def answer_all(
    trained: TrainedModel,
    jobs: Iterable[Job],
    answer: Callable[[Any, np.ndarray], dict[str, Any]],
    source: Path,
    output: Path,
    options: PredictOptions,
) -> Summary:
    """Write the answer of each job to `output`, which `answer` makes of what the job is and of its scores (M, L)."""
    with output_file(output, source) as file:
        summary = file.summary
        for job, logits_ML in scored(trained.model, jobs, options.device, options.config.trainer.precision):
            if job.error:
                file.fault(job.line, job.error)
            else:
                file.write(job.line, answer(job.what, logits_ML))
            summary.incomplete = job.ends_here
            options.progress("records", summary.predicted + summary.faulty, 0)
    return summary


def jobs_of(items: Iterable[Item], encode: Callable[[dict[str, Any]], Job]) -> Iterator[Job]:
    """A job for each record, of those that cannot be read or encoded one with its error.

    Raises `DataError` where nothing of the file can be read. A fault behind which nothing more can be is the last job.
    """
    line = 0
    try:
        for item in items:
            line = item.line
            try:
                if isinstance(item, Fault):
                    raise item.error
                job = encode(item.value)
            except DataError as error:
                job = Job(0, error=str(error))
            job.line = line
            yield job
    except DataError as error:
        if not line:
            raise
        yield Job(line + 1, error=f"nothing can be read from here on: {error}", ends_here=True)


def read_texts(path: Path) -> Iterator[Item]:
    """A plain text file: one text a line, as records with a `text`. Blank lines are none."""
    with path.open("rb") as file:
        for line, _, raw in text_lines(file):
            try:
                if raw is None:
                    raise DataError("the line is too long. Divide it.")
                text = decode_utf8(raw).removesuffix("\n").removesuffix("\r")
            except DataError as error:
                yield Fault(str(path), line, error)
                continue
            if text.strip():
                yield Record({"text": text}, str(path), line, len(raw))


def scored(
    model: Pretrained, jobs: Iterable[Job], device: str, precision: str
) -> Iterator[tuple[Job, np.ndarray]]:
    """Each job with the fp32 scores (M, L) of its documents' positions, one document after the other."""
    waiting: deque[_Waiting] = deque()
    batch: list[tuple[_Waiting, np.ndarray, np.ndarray]] = []
    tokens = 0

    def run() -> None:
        nonlocal tokens
        rows = score(model, [(ids, positions) for _, ids, positions in batch], device, precision)
        for (job, _, _), logits_ML in zip(batch, rows, strict=True):
            job.scores.append(logits_ML)
            job.left -= 1
        batch.clear()
        tokens = 0

    for job in jobs:
        waiting.append(_Waiting(job, len(job.documents)))
        for ids, positions in job.documents:
            if batch and (tokens + len(ids) > BATCH_TOKENS or len(batch) == BATCH_DOCUMENTS):
                run()
            batch.append((waiting[-1], ids, positions))
            tokens += len(ids)
        if batch and len(waiting) >= 4 * BATCH_DOCUMENTS:  # faulty records would wait for a good one for ever
            run()
        yield from _finished(waiting)
    if batch:
        run()
    yield from _finished(waiting)


def score(
    model: Pretrained, documents: list[tuple[np.ndarray, np.ndarray]], device: str, precision: str
) -> list[np.ndarray]:
    """fp32 scores (M, L) at the positions of each document, all of them packed into one row.

    The same numbers as in training: the decoder under the run's precision, the head in its own.
    """
    lengths = [len(ids) for ids, _ in documents]
    starts = np.cumsum([0, *lengths])
    row = np.concatenate([ids for ids, _ in documents]).astype(np.int64)
    kept = np.concatenate([p + begin for (_, p), begin in zip(documents, starts[:-1], strict=True)])
    tensors = (
        row,
        np.arange(len(row)) - np.repeat(starts[:-1], lengths),
        starts.astype(np.int32),
        kept.astype(np.int64),
    )
    ids_T, positions_T, cu_seqlens, keep_M = (torch.from_numpy(one).to(device) for one in tensors)
    head: Any = model
    with torch.inference_mode():
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            hidden_MH = head.model.packed_hidden(ids_T, positions_T, cu_seqlens, max(lengths), keep_M)
        logits_ML = head.score(hidden_MH.to(next(head.score.parameters()).dtype)).float().cpu().numpy()
    return np.split(logits_ML, np.cumsum([len(positions) for _, positions in documents])[:-1])


@dataclass
class _Waiting:
    """A job whose documents are not all scored."""

    job: Job
    left: int
    scores: list[np.ndarray] = field(default_factory=list)


def _finished(waiting: deque[_Waiting]) -> Iterator[tuple[Job, np.ndarray]]:
    """Take the jobs from the front that are done. One whose scores are no numbers has an error."""
    while waiting and not waiting[0].left:
        done = waiting.popleft()
        logits_ML = np.concatenate(done.scores) if done.scores else np.zeros((0, 0), np.float32)
        if not np.isfinite(logits_ML).all():
            done.job.error = NOT_FINITE
        yield done.job, logits_ML
