"""A packed row says exactly what its documents say one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glm_train.data.collate import (
    PackedBatch,
    document_classes,
    document_flags,
    document_values,
    own_token,
    pack,
)

documents = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=12), min_size=1, max_size=8
)


def example(tokens: list[int], trained: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array(tokens, np.int32)
    return ids, np.where(trained, ids, -100).astype(np.int32)


def test_worked_example() -> None:
    a, b, c, x, y, z = range(10, 16)
    batch = pack([example([a, b, c], [0, 1, 1]), example([x, y, z], [0, 1, 0])], [7, 3], step_tokens=30)
    assert batch.input_ids.tolist() == [a, b, c, x, y, z]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 3, 6]
    assert batch.target_positions.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [b, c, y]
    assert (batch.max_seqlen, batch.step_tokens, batch.documents) == (3, 30, [7, 3])


@given(documents)
def test_row_equals_its_documents(rows: list[list[tuple[int, bool]]]) -> None:
    examples = [example([t for t, _ in row], [y for _, y in row]) for row in rows]
    batch = pack(examples, range(len(rows)), step_tokens=1)
    ends = batch.cu_seqlens.tolist()
    assert len(batch.input_ids) == len(batch.position_ids) == sum(map(len, rows)) == ends[-1], "no padding"
    assert batch.max_seqlen == max(map(len, rows))
    expected = []
    for (ids, labels), start, end in zip(examples, ends, ends[1:], strict=False):
        assert batch.input_ids[start:end].tolist() == ids.tolist()
        assert batch.position_ids[start:end].tolist() == list(range(end - start))
        expected += [(start + t, ids[t + 1]) for t in range(end - start - 1) if labels[t + 1] != -100]
    assert list(zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True)) == expected


def test_first_token_of_a_document_is_never_a_target() -> None:
    batch = pack(
        [example([1, 2], [1, 1]), example([3], [1]), example([4, 5], [1, 0])], [0, 1, 2], step_tokens=1
    )
    assert batch.target_positions.tolist() == [0]
    assert batch.targets.tolist() == [2]


def test_nothing_trained_is_legal() -> None:
    batch = pack([example([1, 2], [0, 0])], [0], step_tokens=9)
    assert batch.targets.shape == batch.target_positions.shape == (0,)
    assert batch.targets.dtype == torch.int64


def test_dtypes() -> None:
    batch = pack([example([1, 2], [0, 1])], [0], step_tokens=9)
    assert {
        f: getattr(batch, f).dtype for f in ("input_ids", "position_ids", "target_positions", "targets")
    } == dict.fromkeys(("input_ids", "position_ids", "target_positions", "targets"), torch.int64)
    assert batch.cu_seqlens.dtype == torch.int32


def test_the_store_is_not_written_to() -> None:
    ids, labels = example([1, 2], [1, 1])
    ids.flags.writeable = labels.flags.writeable = False
    batch = pack([(ids, labels)], [0], step_tokens=9)
    batch.input_ids.zero_()
    assert ids.tolist() == labels.tolist() == [1, 2]


def test_to_moves_tensors_and_keeps_the_rest() -> None:
    batch = pack([example([1, 2], [0, 1])], [4], step_tokens=9)
    moved = batch.to("meta")
    assert {t.device.type for t in vars(moved).values() if isinstance(t, torch.Tensor)} == {"meta"}
    assert (moved.max_seqlen, moved.step_tokens, moved.documents) == (2, 9, [4])
    assert isinstance(moved, PackedBatch)


@pytest.mark.gpu
def test_pin_memory() -> None:
    batch = pack([example([1, 2], [0, 1])], [4], step_tokens=9).pin_memory()
    assert all(t.is_pinned() for t in vars(batch).values() if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("examples", [[], [example([], [])], [(np.ones(2, np.int32), np.ones(3, np.int32))]])
def test_wrong_calls(examples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    with pytest.raises(ValueError, match=r"at least one token|a label for every token"):
        pack(examples, [0], step_tokens=1)


def test_targets_of_the_other_tasks() -> None:
    ids = [np.arange(3, dtype=np.int32), np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32)]
    classes = [np.array(y, np.int32) for y in ([4, -100, 5], [6, -100], [-100, -100])]
    batch = pack(list(zip(ids, classes, strict=True)), [0, 1, 2], 3, own_token)
    assert (batch.target_positions.tolist(), batch.targets.tolist()) == ([0, 2, 3], [4, 5, 6])
    one = [np.array([y], np.int32) for y in (7, -100, 8)]
    batch = pack(list(zip(ids, one, strict=True)), [0, 1, 2], 2, document_classes)
    assert (batch.target_positions.tolist(), batch.targets.tolist()) == ([2, 6], [7, 8])
    flags = [np.array(y, np.int32) for y in ([0, 1], [1, 1], [0, 0])]
    batch = pack(list(zip(ids, flags, strict=True)), [0, 1, 2], 3, document_flags)
    assert (batch.target_positions.tolist(), batch.targets.tolist()) == ([2, 4, 6], [[0, 1], [1, 1], [0, 0]])
    values = [np.array([v], np.float32).view(np.int32) for v in (0.5, -100.0, 3e8)]
    batch = pack(list(zip(ids, values, strict=True)), [0, 1, 2], 3, document_values)
    assert (batch.targets.dtype, batch.targets.tolist()) == (torch.float32, [[0.5], [-100.0], [3e8]])
    filler = [(ids[0], np.full_like(values[0], -100))]
    assert pack(filler, [], 1, document_values).targets.shape == (0, 1)
