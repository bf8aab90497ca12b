"""An adapter that was trained in shares is saved whole: read again, it is the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glm_train.build_data import build_data, build_tokenizer
from glm_train.config.compose import compose
from glm_train.data.store import IGNORE
from glm_train.trained_model import load_trained
from support.compared_runs import LOSS, WEIGHTS, overrides, rows, weights
from support.fitted import logits_of
from support.fitted_texts import texts
from support.rank_runs import Phase, run_phases

# With rank 5, ranks of 4 processes have 2, 2, 1 and 0 rows of A; of 3 labels 1, 1, 1 and 0.
KINDS = {
    "plain": ["adapter.r=5"],
    "texts": ["adapter.r=5", "task=sequence_classification", "data=sequence"],
    "dora": ["adapter.r=3", "adapter.dora=true", "adapter.modules_to_save=[input_layernorm]"],
    "start": [
        "adapter.r=5",
        "adapter.init=pissa",
        "adapter.new_tokens=[<|user|>,<|assistant|>,<|observation|>]",
    ],
}
SPREAD = {
    1: ["batch.accumulate=4"],
    2: ["batch.accumulate=2", "parallel=fsdp"],
    4: ["batch.accumulate=1", "parallel=fsdp"],
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path) -> dict:
    """The overrides of runs that are over, by kind and number of processes."""
    place = tmp_path_factory.mktemp("adapters")
    labelled = texts(place / "texts.jsonl")
    made = {
        (kind, processes): overrides(
            model_folder,
            labelled if kind == "texts" else chat_file,
            place / f"{kind}-{processes}",
            *("adapter=lora", "optim.lr=0.01", "trainer.max_steps=3", "trainer.validate_every=3"),
            *(*more, *spread),
        )
        for kind, more in KINDS.items()
        for processes, spread in SPREAD.items()
    }
    run_phases([Phase(n, [job for (_, m), job in made.items() if m == n]) for n in SPREAD], place)
    return made


def output_of(job: list[str]) -> Path:
    return Path(dict(setting.split("=", 1) for setting in job)["output_dir"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_saved_as_one_process_saves_the_whole(jobs: dict, kind: str, processes: int) -> None:
    one, other = (output_of(jobs[kind, n]) for n in (1, processes))
    assert {path.name for path in (one / "model").iterdir()} == {
        path.name for path in (other / "model").iterdir()
    }
    configs = [json.loads((run / "model" / "adapter_config.json").read_text()) for run in (one, other)]
    assert configs[0] == configs[1]
    expected, found = weights(one), weights(other)
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in expected.items()}
    for name, tensor in expected.items():
        assert np.abs(found[name] - tensor).max() <= WEIGHTS, name
    documents = [[3, 5, 7, 11, 13, 17], list(range(20, 60))]
    for mine, theirs in zip(
        *(logits_of(load_trained(str(run)).model, documents) for run in (other, one)), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("processes", SPREAD)
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_read_again_has_the_loss_of_the_model_that_was_trained(
    jobs: dict, kind: str, processes: int
) -> None:
    job = jobs[kind, processes]
    trained = load_trained(str(output_of(job)))
    config = compose("chat_smoke", job)
    store = build_data(config, *build_tokenizer(config)).validation
    assert store is not None
    total, count = 0.0, 0
    for index in range(len(store)):
        ids, labels = (torch.from_numpy(np.array(part)).long() for part in store[index])
        scores_TV = logits_of(trained.model, [ids.tolist()])[0]
        scores, targets = (scores_TV[None], labels) if kind == "texts" else (scores_TV[:-1], labels[1:])
        total += float(F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction="sum"))
        count += int((targets != IGNORE).sum())
    (*_, last) = rows(output_of(job))
    assert total / count == pytest.approx(last["val/loss"], rel=LOSS)
