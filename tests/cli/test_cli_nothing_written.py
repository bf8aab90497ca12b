"""Whatever is wrong, a command ends with exit code 2 and a message that names it, and writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glm_train.cli.main import main

FIT = "fit chat_smoke model.path=MODEL data.train=CHATS data.validation=null data.cache_dir=CACHE"
CASES = {
    f"{FIT} output_dir=file": "output_dir=file: is a file",
    f"{FIT} output_dir=file/below": "output_dir=file/below: cannot be written",
    f"{FIT} output_dir=/proc/nope/x": "cannot be written",
    f"{FIT} resume=dir": "resume=dir: no valid state",
    f"{FIT} resume=file": "resume=file: no such folder",
    f"{FIT} parallel=tp": "parallel can be single, ddp, fsdp or hsdp",
    f"{FIT} trainer.devices=2 parallel=single": "add parallel=fsdp",
    f"{FIT} trainer.devices=1000000 parallel=ddp": "no machine has more than 1024",
    f"{FIT} parallel=hsdp parallel.shard_size=3 trainer.devices=2": "shard_size must divide their number",
    f"{FIT} optim.lr=nan": "must be a finite number",
    f"{FIT} seed={'9' * 5000}": "seed: expected a whole number",
    f"{FIT} data.train=dir": "dir: this is a folder without data files",
    f"{FIT} data.train=empty.jsonl": "the file is empty",
    f"{FIT} data.train=pipe": "not a regular file",
    f"{FIT} data.train=北京.jsonl": "北京.jsonl: no such file",
    f"{FIT} data.cache_dir=file": "cannot write the prepared data",
    f"{FIT} model.path=file": "file is a file",
    f"{FIT} -m seed=1,-3": "No job was started: seed=-3 is wrong",
    "fit dir": "dir is a folder; a recipe is a YAML file",
    "show chat_smoke optim.lr": "is not of the form key=value",
    "predict MODEL dir out": "folder without data files",
    "predict MODEL CHATS dir": "dir: this is a folder",
    "predict MODEL CHATS nodir/out": "there is no folder 'nodir'",
    "predict dir CHATS out": "neither a model folder",
    "evaluate MODEL": "data.validation is missing",
    "export dir out": "neither a model folder",
    "export MODEL out --dtype fp8": "expected one of auto, fp32, bf16",
    "convert MODEL file --to chatglm": "file: a file",
    "generate MODEL --prompt a --temperature nan": "--temperature nan: must be from",
    "generate MODEL --file dir": "folder without data files",
}


@pytest.mark.parametrize("line", CASES, ids=[line.replace(FIT, "fit")[:60] for line in CASES])
def test_a_mistake_is_named_and_leaves_nothing(
    line: str,
    model_folder: Path,
    chat_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    (here / "dir").mkdir(parents=True)
    (here / "file").write_text("x")
    (here / "empty.jsonl").write_text("")
    os.mkfifo(here / "pipe")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(here.rglob("*")), (here / "file").read_text()
    words = {"MODEL": str(model_folder), "CHATS": str(chat_file), "CACHE": str(tmp_path / "cache")}
    arguments = line
    for word, value in words.items():
        arguments = arguments.replace(word, value)
    assert main(arguments.split(" ")) == 2
    told = capsys.readouterr().err
    assert CASES[line] in told
    assert "Traceback" not in told
    assert len(told) < 2000
    assert (sorted(here.rglob("*")), (here / "file").read_text()) == before
