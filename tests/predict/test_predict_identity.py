"""Which changes of a model make it another one, for an output that is gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm_train import GlmConfig, GlmForCausalLM
from glm_train.adapters.folder import load_adapter
from glm_train.errors import ConfigError
from glm_train.predict.resumable import ResumableOutput, identity_of
from support.adapted import peft_trained
from support.reference import transformers_model
from support.tiny_heads import TINY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter on it that PEFT made. Read only."""
    folder = tmp_path_factory.mktemp("peft")
    torch.manual_seed(0)
    GlmForCausalLM(GlmConfig(**TINY)).save_pretrained(folder / "base")
    peft_trained(transformers_model(GlmConfig(**TINY)), folder / "adapter", "CAUSAL_LM")
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, on a copy of the base."""
    for name in ("base", "adapter"):
        shutil.copytree(made / name, tmp_path / name)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")})
    )
    return tmp_path / "adapter"


class Killed(Exception):
    """Stands for whatever ends a process."""


def other_weights(base: Path) -> None:
    torch.manual_seed(1)
    GlmForCausalLM(GlmConfig(**TINY)).save_pretrained(base, overwrite=True)


def other_settings(base: Path) -> None:
    path = base / "config.json"
    path.write_text(path.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 20000.0'))


@pytest.mark.parametrize("change", [other_weights, other_settings])
def test_another_base_of_an_adapter_is_another_model(
    adapter: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("{}\n{}\n")
    load_adapter(GlmForCausalLM.from_pretrained(tmp_path / "base"), adapter)

    def predict(*, resume: bool) -> None:
        with ResumableOutput(
            out, source, {"model": identity_of(adapter)}, resume=resume, overwrite=False
        ) as output:
            output.write(1, {"reply": "a"})
            output.flush()
            raise Killed

    with pytest.raises(Killed):
        predict(resume=False)
    with pytest.raises(Killed):
        predict(resume=True)
    before = (tmp_path / "base" / "config.json").read_bytes(), identity_of(adapter)
    change(tmp_path / "base")
    assert (change is other_settings) == ((tmp_path / "base" / "config.json").read_bytes() != before[0])
    with pytest.raises(ConfigError, match="what differs: the model"):
        predict(resume=True)


def test_a_base_that_moved_is_the_same(adapter: Path, tmp_path: Path) -> None:
    """The adapter's own file says where it is, so that one differs."""
    before = identity_of(adapter)
    (tmp_path / "base").rename(tmp_path / "moved")
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace(str(tmp_path / "base"), str(tmp_path / "moved")))
    after = identity_of(adapter)
    assert {name for name in after if after[name] != before[name]} == {"adapter_config.json"}
    assert any(name.startswith("base/") and name.endswith(".safetensors") for name in after)


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.model", "config.json"])
def test_each_file_counts(tmp_path: Path, changed: str) -> None:
    """Also a tensor in the middle of a large one, where the ends stay as they were."""
    for name, size in (("model.safetensors", 1 << 22), ("tokenizer.model", 100), ("config.json", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    before = identity_of(tmp_path)
    assert before == identity_of(tmp_path)
    path = tmp_path / changed
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(max(size // 100, 16)))
    after = identity_of(tmp_path)
    assert [name for name in after if after[name] != before[name]] == [changed]
