"""States of 1, 2 and 4 processes that go on with 1, 2 and 4, each way of spreading a model with the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glm_train.export import export
from support.compared_runs import STEPS, agree, overrides, rows, steps_seen
from support.fitted import result, same, state
from support.fitted_texts import texts
from support.model_folder import write_chats
from support.rank_runs import Phase, run_phases

ACCUMULATE = {1: 4, 2: 2, 4: 1}
HYBRID = ["parallel=hsdp", "parallel.shard_size=2"]
WAYS = {"single": [], "ddp": ["parallel=ddp"], "fsdp": ["parallel=fsdp"], "hsdp": HYBRID}
# Rows of an adapter of rank 5 and of a head of 3 labels do not go round among 4 processes.
LORA = ["adapter=lora", "adapter.r=5"]
KINDS = {
    "full": [],
    "lora": LORA,
    "dropout": [*LORA, "adapter.dropout=0.3"],
    "texts": [*LORA, "task=sequence_classification", "data=sequence"],
}
# Runs that are never stopped: what is trained, by how many processes, how it is spread.
WHOLE = [
    *(("full", 1, "single"), ("full", 2, "fsdp"), ("full", 4, "fsdp")),
    *(("lora", 1, "single"), ("lora", 2, "ddp"), ("lora", 4, "fsdp")),
    *(("dropout", 2, "ddp"), ("dropout", 4, "hsdp")),
    *(("texts", 1, "single"), ("texts", 4, "fsdp")),
]
# What is trained; who saved the state; the step; who goes on. Epochs have 5 steps, validation follows every sixth step.
NINE = [
    ("full", (1, "single"), 9, (1, "single")),
    ("full", (1, "single"), 12, (2, "fsdp")),
    ("full", (1, "single"), 15, (4, "fsdp")),
    ("full", (2, "fsdp"), 6, (1, "single")),
    ("full", (2, "fsdp"), 9, (2, "fsdp")),
    ("full", (2, "fsdp"), 12, (4, "hsdp")),
    ("full", (4, "fsdp"), 15, (1, "single")),
    ("full", (4, "fsdp"), 6, (2, "fsdp")),
    ("full", (4, "fsdp"), 9, (4, "fsdp")),
]
MIXED = [
    ("lora", (2, "ddp"), 15, (1, "single")),
    ("lora", (4, "fsdp"), 12, (1, "single")),
    ("lora", (1, "single"), 15, (2, "fsdp")),
    ("lora", (4, "fsdp"), 12, (2, "ddp")),
    ("lora", (2, "ddp"), 12, (4, "hsdp")),
    ("lora", (1, "single"), 15, (4, "ddp")),
    ("texts", (4, "fsdp"), 12, (2, "fsdp")),
    ("texts", (1, "single"), 15, (4, "hsdp")),
]
SAME_NUMBER = [
    ("dropout", (2, "ddp"), 12, (2, "fsdp")),
    ("dropout", (2, "ddp"), 15, (2, "ddp")),
    ("dropout", (4, "hsdp"), 15, (4, "fsdp")),
    ("dropout", (4, "hsdp"), 12, (4, "hsdp")),
]
MOVES = [*NINE, *MIXED, *SAME_NUMBER]


def name_of(kind: str, processes: int, way: str) -> str:
    return f"{kind}-{processes}-{way}"


def name_of_move(move: tuple) -> str:
    kind, before, step, after = move
    return f"{name_of(kind, *before)}-{step}-to-{after[0]}-{after[1]}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    place = tmp_path_factory.mktemp("pairs")
    chats, labelled = write_chats(place / "chats.jsonl", repeats=3), texts(place / "texts.jsonl")

    def job(kind: str, processes: int, way: str, name: str, *more: str) -> list[str]:
        return overrides(
            model_folder,
            labelled if kind == "texts" else chats,
            place / name,
            *KINDS[kind],
            *WAYS[way],
            *("batch.documents=null", "batch.tokens=64", "data.max_length=64", "trainer.validate_every=6"),
            *("schedule=cosine", f"batch.accumulate={ACCUMULATE[processes]}", "trainer.keep=99"),
            *more,
        )

    first, then = [], []
    for number in ACCUMULATE:
        runs = [
            job(kind, processes, way, name_of(kind, processes, way), "trainer.save_every=3")
            for kind, processes, way in WHOLE
            if processes == number
        ]
        first.append(Phase(number, runs))
        moves = [move for move in MOVES if move[3][0] == number]
        cut = [(str(place / name_of(m[0], *m[1])), str(place / name_of_move(m)), m[2]) for m in moves]
        again = [job(m[0], *m[3], name_of_move(m), "trainer.save_every=99", "resume=auto") for m in moves]
        then.append(Phase(number, again, cut))
    run_phases([*first, *then], place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES, ids=name_of_move)
def test_a_state_goes_on_with_any_number_of_processes(runs: Path, move: tuple) -> None:
    kind, _, step, (processes, _) = move
    reference = (kind, 1, "single") if kind != "dropout" else (kind, *move[1])
    whole, part = runs / name_of(*reference), runs / name_of_move(move)
    agree(whole, part)
    expected = steps_seen(whole, reference[1])
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert steps_seen(part, processes) == {s: d for s, d in expected.items() if s > step}


@pytest.mark.slow
@pytest.mark.parametrize("move", [move for move in MOVES if move[1] == move[3]], ids=name_of_move)
def test_as_many_processes_end_bit_for_bit_as_if_never_stopped(runs: Path, move: tuple) -> None:
    whole, part = runs / name_of(move[0], *move[1]), runs / name_of_move(move)
    assert rows(part) == rows(whole)
    assert same(state(part, STEPS), state(whole, STEPS))
    assert same(result(part), result(whole))
    random = {key for key in state(whole, STEPS) if key.startswith("random")}
    assert len(random) == move[1][0]


@pytest.mark.slow
@pytest.mark.parametrize("one", WHOLE, ids=lambda one: name_of(*one))
def test_runs_that_are_never_stopped_see_the_same_steps(runs: Path, one: tuple) -> None:
    kind, processes, _ = one
    if kind != "dropout":
        agree(runs / name_of(kind, 1, "single"), runs / name_of(*one))
    assert steps_seen(runs / name_of(*one), processes) == steps_seen(
        runs / name_of("texts" if kind == "texts" else "full", 1, "single"), 1
    )


@pytest.mark.slow
def test_only_one_copy_of_each_row_is_saved(runs: Path) -> None:
    folder = runs / name_of("dropout", 4, "hsdp") / "checkpoints" / f"step-{STEPS:08d}"
    shards = json.loads((folder / "shards.json").read_text())
    assert shards["processes"] == 4
    assert len(shards["groups"]["random"]) == 4
    for name, entry in shards["groups"]["model"].items():
        files = [file for file, _, _ in entry["pieces"]]
        assert files == ["model-00000.safetensors", "model-00001.safetensors"][: len(files)], name
        spans = [(start, stop) for _, start, stop in entry["pieces"]]
        assert spans[0][0] == 0
        assert spans[-1][1] == entry["shape"][0]


@pytest.mark.slow
@pytest.mark.parametrize("one", [("full", 2, "fsdp"), ("dropout", 4, "hsdp"), ("full", 4, "fsdp")])
def test_a_state_of_several_processes_is_exported_as_the_result_is(
    runs: Path, tmp_path: Path, one: tuple
) -> None:
    """Of one copy shared by two processes or four, and of two copies shared by two each."""
    run = runs / name_of(*one)
    state = run / "checkpoints" / f"step-{STEPS:08d}"
    assert (state / "shards.json").exists()
    export(str(state), tmp_path / "of-state")
    export(str(run), tmp_path / "of-run")
    files = {path.name for path in (tmp_path / "of-run").iterdir()}
    assert {"model.safetensors", "tokenizer.json"} < files
    for file in files | {path.name for path in (tmp_path / "of-state").iterdir()}:
        assert (tmp_path / "of-state" / file).read_bytes() == (tmp_path / "of-run" / file).read_bytes()
