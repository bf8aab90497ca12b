"""Two copies of the model, each shared by two processes, and states that go from four processes to two and to one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glm_train.export import export
from support.compared_runs import agree, overrides
from support.rank_runs import run_together

HYBRID = ["batch.accumulate=1", "parallel=hsdp", "parallel.shard_size=2"]
SHARED = ["batch.accumulate=1", "parallel=fsdp"]
HALF = "trainer.max_steps=10"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path) -> Path:
    place = tmp_path_factory.mktemp("four")

    def job(name: str, *more: str) -> list[str]:
        return overrides(model_folder, chat_file, place / name, *more)

    adapter = ["adapter=lora", "adapter.r=4"]
    one, two = "batch.accumulate=4", "batch.accumulate=2"
    run_together(
        [
            job("hybrid", *HYBRID),
            job("hybrid-lora", *HYBRID, *adapter),
            job("to-one", *HYBRID, HALF),
            job("to-two", *SHARED, HALF),
        ],
        4,
        place,
    )
    run_together(
        [job("to-two", two, "parallel=fsdp", "resume=auto"), job("to-four", two, "parallel=fsdp", HALF)],
        2,
        place,
    )
    run_together([job("to-four", *HYBRID, "resume=auto")], 4, place)
    run_together(
        [job("one", one), job("one-lora", one, *adapter), job("to-one", one, "resume=auto")], 1, place
    )
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("one", "hybrid"),
        ("one-lora", "hybrid-lora"),
        ("one", "to-one"),
        ("one", "to-two"),
        ("one", "to-four"),
    ],
)
def test_four_processes_train_what_one_does(runs: Path, one: str, other: str) -> None:
    agree(runs / one, runs / other)


@pytest.mark.slow
def test_only_one_copy_of_each_row_is_saved(runs: Path) -> None:
    shards = json.loads((runs / "hybrid" / "checkpoints" / "step-00000020" / "shards.json").read_text())
    assert shards["processes"] == 4
    assert len(shards["groups"]["random"]) == 4
    for name, entry in shards["groups"]["model"].items():
        files = [file for file, _, _ in entry["pieces"]]
        assert files == ["model-00000.safetensors", "model-00001.safetensors"][: len(files)], name
        rows = [(start, stop) for _, start, stop in entry["pieces"]]
        assert rows[0][0] == 0
        assert rows[-1][1] == entry["shape"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "hybrid-lora", "to-two"])
def test_a_state_of_several_processes_is_exported_as_the_result_is(
    runs: Path, tmp_path: Path, name: str
) -> None:
    """Of two copies shared by two processes each, and of one shared by two."""
    state = runs / name / "checkpoints" / "step-00000020"
    assert (state / "shards.json").exists()
    export(str(state), tmp_path / "of-state")
    export(str(runs / name), tmp_path / "of-run")
    files = {path.name for path in (tmp_path / "of-run").iterdir()}
    assert {"model.safetensors", "tokenizer.json"} < files
    for file in files | {path.name for path in (tmp_path / "of-state").iterdir()}:
        assert (tmp_path / "of-state" / file).read_bytes() == (tmp_path / "of-run" / file).read_bytes()
