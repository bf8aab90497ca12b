"""Packing a stream: the order of the answers, the size of the batches, and what waits in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glm_train import GlmForTokenClassification
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import DataError
from glm_train.predict import batches
from glm_train.predict.batches import Job, jobs_of, read_texts, scored


@pytest.fixture(scope="module")
def model(tagger: Path) -> Any:
    return GlmForTokenClassification.from_pretrained(tagger).eval()


def job(line: int, *lengths: int) -> Job:
    dice = np.random.default_rng(line)
    documents = [(dice.integers(0, 400, n).astype(np.int32), np.arange(0, n, 2)) for n in lengths]
    return Job(line, documents, error="" if lengths else "bad")


def alone(model: Any, one: Job) -> np.ndarray:
    """The scores of each document in a forward of its own."""
    rows = []
    for ids, positions in one.documents:
        with torch.inference_mode():
            rows.append(model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0, positions].numpy())
    return np.concatenate(rows)


def test_every_job_comes_back_in_order_with_its_own_scores(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_TOKENS", 20)
    jobs = [job(1, 5), job(2), job(3, 9, 9, 4), job(4, 30), job(5), job(6, 1), job(7, 7, 2)]
    found = list(scored(model, iter(jobs), "cpu", "fp32"))
    assert [one.line for one, _ in found] == [1, 2, 3, 4, 5, 6, 7]
    for one, logits in found:
        if one.documents:
            assert logits == pytest.approx(alone(model, one), abs=1e-5)
            assert not one.error
        else:
            assert logits.size == 0


def test_batches_keep_to_the_budget(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_TOKENS", 20)
    monkeypatch.setattr(batches, "BATCH_DOCUMENTS", 3)
    sizes: list[list[int]] = []
    run = batches.score

    def spy(model: Any, documents: Any, *rest: Any) -> list[np.ndarray]:
        sizes.append([len(ids) for ids, _ in documents])
        return run(model, documents, *rest)

    monkeypatch.setattr(batches, "score", spy)
    jobs = [job(1, 12), job(2, 8), job(3, 2), job(4, 25), job(5, 1), job(6, 1), job(7, 1), job(8, 1)]
    list(scored(model, iter(jobs), "cpu", "fp32"))
    assert sizes == [[12, 8], [2], [25], [1, 1, 1], [1]]


@pytest.mark.parametrize("good", [True, False])
def test_little_waits_in_memory(model: Any, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records come, and also where one good record is followed by faulty ones alone."""
    monkeypatch.setattr(batches, "BATCH_DOCUMENTS", 4)
    taken = given = most = 0

    def stream() -> Iterator[Job]:
        nonlocal taken, most
        for line in range(1, 300):
            taken += 1
            most = max(most, taken - given)
            yield job(line, 3) if good or line == 1 else job(line)

    for _ in scored(model, stream(), "cpu", "fp32"):
        given += 1
    assert given == 299
    assert most <= 17


def test_scores_that_are_no_numbers_are_the_records_own_fault(model: Any) -> None:
    weight = model.score.weight.data.clone()
    try:
        model.score.weight.data.fill_(float("nan"))
        ((one, _),) = scored(model, iter([job(1, 3)]), "cpu", "fp32")
    finally:
        model.score.weight.data.copy_(weight)
    assert "no numbers" in one.error


def test_faults_have_a_job_in_their_place() -> None:
    def encode(value: dict[str, Any]) -> Job:
        if value["n"] == 2:
            raise DataError("two")
        return Job(0, what=value["n"])

    items: list[Item] = [Record({"n": 1}, "f", 4), Fault("f", 6, DataError("torn")), Record({"n": 2}, "f", 9)]
    found = list(jobs_of(items, encode))
    assert [(one.line, one.what, one.error) for one in found] == [
        (4, 1, ""),
        (6, None, "torn"),
        (9, None, "two"),
    ]


def test_what_ends_a_file_is_its_last_job() -> None:
    def torn(records: int) -> Iterator[Item]:
        for line in range(1, records + 1):
            yield Record({}, "f", line)
        raise DataError("f:3: a quote is open")

    found = list(jobs_of(torn(2), lambda value: Job(0)))
    assert [one.line for one in found] == [1, 2, 3]
    assert found[-1].ends_here
    assert "f:3: a quote is open" in found[-1].error
    with pytest.raises(DataError, match=r"^f:3: a quote is open$"):
        list(jobs_of(torn(0), lambda value: Job(0)))


def test_plain_texts_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n two \n\xff\nend")
    found = list(read_texts(path))
    assert [item.line for item in found] == [1, 3, 4, 5]
    texts = [item.value["text"] for item in found if isinstance(item, Record)]
    assert texts == ["one", " two ", "end"]
    assert isinstance(found[2], Fault)
