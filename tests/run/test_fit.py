"""A whole run: what it leaves behind, that it learns, that it stops and goes on exactly."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from glm_train import GlmForCausalLM, run
from glm_train.errors import CheckpointError, ConfigError, GlmTrainError
from glm_train.generate import Talker
from glm_train.text.chat import Message
from support.fitted import cut_back, ends_as_if_never_stopped
from support.runs import configure, rows, weights


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path) -> Path:
    """A run long enough to learn the eleven chats by heart."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    config = configure(
        model_folder,
        chat_file,
        folder,
        trainer__max_epochs=70,
        optim__lr=0.01,
        data__validation=chat_file,
        trainer__validate_every=35,
        batch__tokens=400,
    )
    result = run.fit(config, "test")
    assert result.metrics["train/loss"] < 0.1
    return folder


def test_a_run_leaves_its_settings_scalars_states_model_and_report(learned: Path, model_folder: Path) -> None:
    names = {path.name for path in learned.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "checkpoints", "model", "report.html"}
    first, *_, last = rows(learned / "metrics.csv")
    assert list(first)[:2] == ["step", "epoch"]
    assert float(last["train/loss"]) < 0.1 < 3 < float(first["train/loss"])
    assert float(last["val/loss"]) < 0.1
    assert float(last["val/token_accuracy"]) > 0.97
    files = {path.name for path in (learned / "model").iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= files
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (learned / "model" / name).read_bytes() == (model_folder / name).read_bytes()
    assert "<svg" in (learned / "report.html").read_text()


def test_the_result_answers_from_its_training_data_and_stops_by_itself(learned: Path) -> None:
    talker = Talker(str(learned))
    shown: list[str] = []
    answer = talker.answer([Message("user", "What is the weather?")], on_text=shown.append, max_new_tokens=40)
    assert (answer.text, answer.stopped_by) == ("Sunny, 31 degrees.", "<|user|>")
    assert "".join(shown) == answer.text
    assert talker.answer([Message("user", "你好")], max_new_tokens=40).text == "你好，你是谁？"


def test_transformers_loads_the_result_and_says_the_same(learned: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(learned / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(learned / "model")
    chat = [{"role": "user", "content": "Are you fine?"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(out) == "\nI am fine, thank you.<|user|>"


@pytest.fixture(scope="module")
def stopped_anywhere(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path, chat_file: Path):
    """A run with dropout, accumulation and a short last step an epoch, that kept the state of every step."""
    from support.model_folder import make_model_folder

    folder = tmp_path_factory.mktemp("exact")
    model = make_model_folder(folder / "model", tiny_tokenizer_folder, attention_dropout=0.3)

    config = partial(
        configure,
        model,
        chat_file,
        trainer__max_epochs=3,
        trainer__save_every=1,
        trainer__keep=100,
        trainer__validate_every=4,
        data__validation=chat_file,
        batch__documents=2,
        batch__accumulate=2,
        optim__lr=0.01,
    )
    result = run.fit(config(folder / "whole"), "test")
    assert result.steps == 9
    return folder, config


@pytest.mark.parametrize("step", range(1, 9))
def test_a_run_resumed_after_any_step_ends_as_if_never_stopped(
    stopped_anywhere, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config = stopped_anywhere
    ends_as_if_never_stopped(config, folder / "whole", folder / f"part{step}", step)
    assert f"going on after step {step}\n" in capsys.readouterr().out


def test_resume_skips_a_damaged_state_and_says_so(
    stopped_anywhere, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config = stopped_anywhere
    part = cut_back(folder / "whole", folder / "damaged", 5)
    damaged = part / "checkpoints" / "step-00000005" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    run.fit(config(part, resume="auto"), "test")
    printed = capsys.readouterr().out
    assert "step-00000005" in printed
    assert "going on after step 4" in printed
    assert np.array_equal(weights(part)["lm_head.weight"], weights(folder / "whole")["lm_head.weight"])


def test_resume_under_another_plan_is_refused(stopped_anywhere, model_folder: Path, chat_file: Path) -> None:
    folder, _ = stopped_anywhere
    other = configure(model_folder, chat_file, None, resume=folder / "whole", seed=1, batch__documents=3)
    with pytest.raises(ConfigError, match="plan of steps has changed") as error:
        run.fit(other, "test")
    assert "seed was 0 and is 1" in str(error.value)
    assert "documents was 2 and is 3" in str(error.value)


def test_another_model_is_not_resumed_into(stopped_anywhere, model_folder: Path, chat_file: Path) -> None:
    folder, _ = stopped_anywhere
    settings = {"trainer__max_epochs": 3, "batch__documents": 2, "batch__accumulate": 2}
    other = configure(model_folder, chat_file, None, resume=folder / "whole", **settings)
    with pytest.raises(ConfigError, match=r"model\.path \(its config\.json\)"):
        run.fit(other, "test")


def test_fewer_steps_than_are_done_are_refused(stopped_anywhere) -> None:
    folder, config = stopped_anywhere
    fewer = dataclasses.replace(
        config(folder / "whole", resume="auto"),
        trainer=dataclasses.replace(config(folder / "x").trainer, max_epochs=2),
    )
    with pytest.raises(ConfigError, match="has 9 steps behind it, and the run shall have 6"):
        run.fit(fewer, "test")


def test_going_back_to_an_older_state_needs_the_newer_ones_out_of_the_way(stopped_anywhere) -> None:
    folder, config = stopped_anywhere
    older = folder / "whole" / "checkpoints" / "step-00000003"
    with pytest.raises(ConfigError, match="step-00000009 is newer"):
        run.fit(dataclasses.replace(config(folder / "whole"), resume=str(older), output_dir=None), "test")


def test_a_folder_that_holds_a_run_is_not_written_over(
    learned: Path, model_folder: Path, chat_file: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in learned.rglob("*")}
    with pytest.raises(ConfigError, match="already holds a run"):
        run.fit(configure(model_folder, chat_file, learned), "test")
    assert before == {p: p.stat().st_mtime_ns for p in learned.rglob("*")}


def test_a_finished_run_resumed_again_changes_nothing(stopped_anywhere) -> None:
    folder, config = stopped_anywhere
    before = weights(folder / "whole")
    result = run.fit(config(folder / "whole", resume="auto"), "test")
    assert result.steps == 9
    assert all(np.array_equal(before[name], tensor) for name, tensor in weights(folder / "whole").items())


def test_without_validation_there_are_no_validation_scalars(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    result = run.fit(configure(model_folder, chat_file, tmp_path / "run", trainer__max_epochs=1), "test")
    assert "val/loss" not in result.metrics


def test_a_held_out_share_validates(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    config = configure(model_folder, chat_file, tmp_path / "run", data__validation_fraction=0.2)
    assert run.fit(config, "test").metrics["val/loss"] > 0


def test_bf16_mixed_trains_and_keeps_fp32_weights(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    config = configure(
        model_folder,
        chat_file,
        tmp_path / "run",
        trainer__precision="bf16-mixed",
        optim__lr=0.01,
        trainer__max_epochs=10,
    )
    run.fit(config, "test")
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run" / "metrics.csv")]
    assert losses[-1] < losses[0] - 1
    assert weights(tmp_path / "run")["lm_head.weight"].dtype == np.float32


def test_activation_checkpointing_and_workers_change_no_number(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    settings = {"optim__lr": 0.01, "batch__documents": 3}
    run.fit(configure(model_folder, chat_file, tmp_path / "plain", **settings), "test")
    changed = configure(
        model_folder,
        chat_file,
        tmp_path / "other",
        parallel__activation_checkpointing="full",
        data__workers=2,
        **settings,
    )
    run.fit(changed, "test")
    plain = weights(tmp_path / "plain")
    assert all(np.array_equal(plain[name], tensor) for name, tensor in weights(tmp_path / "other").items())


def test_rope_theta_is_changed_and_saved(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    run.fit(
        configure(model_folder, chat_file, tmp_path / "run", model__rope_theta=5e6, trainer__max_steps=2),
        "test",
    )
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert saved["rope_parameters"]["rope_theta"] == 5e6
    assert GlmForCausalLM.from_pretrained(tmp_path / "run" / "model").config.rope_theta == 5e6


@pytest.mark.parametrize("resume", ["missing", "auto"])
def test_resuming_what_is_not_there_is_explained(
    tmp_path: Path, model_folder: Path, chat_file: Path, resume: str
) -> None:
    settings = {"resume": tmp_path / resume if resume == "missing" else resume}
    with pytest.raises(GlmTrainError, match=r"no such folder|add output_dir"):
        run.fit(configure(model_folder, chat_file, None, **settings), "test")


def test_a_run_without_a_result_cannot_be_talked_to(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(CheckpointError, match="did not finish"):
        Talker(str(tmp_path))


def test_the_result_lists_every_stop_token_also_where_the_base_model_did_not(
    tmp_path: Path, tiny_tokenizer_folder: Path, chat_file: Path
) -> None:
    from support.model_folder import make_model_folder

    base = make_model_folder(tmp_path / "base", tiny_tokenizer_folder, eos_token_id=400)
    run.fit(configure(base, chat_file, tmp_path / "run", trainer__max_steps=2), "test")
    saved = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    tokens = json.loads((base / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    assert sorted(saved["eos_token_id"]) == [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]]


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_examples(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    from glm_train.errors import CheckFailed

    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = np.nan
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckFailed, match="step 1: the loss is nan") as error:
        run.fit(configure(broken, chat_file, tmp_path / "run", batch__documents=2), "test")
    assert error.value.exit_code == 3
    assert f"{chat_file}:" in str(error.value)
    assert not (tmp_path / "run" / "model").exists()
