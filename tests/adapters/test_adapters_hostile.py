"""Adapter folders from strangers: refused in words, before the model is changed, and no code is run."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train import GlmForSequenceClassification
from glm_train.adapters.folder import (
    is_adapter_folder,
    load_adapter,
    read_adapter_base,
    read_adapter_config,
    save_adapter,
)
from glm_train.errors import CheckpointError
from support.adapted import adapted, ids
from support.tiny_heads import make

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "sound"
    save_adapter(adapted(make(), targets=("q_proj",)), folder, "base")
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    for path in sound.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _refused(folder: Path, said: str, model: Any = None) -> None:
    model = make() if model is None else model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        load_adapter(model, folder)
    assert len(str(caught.value)) < 1000
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA adapters are read"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
        ({"peft_type": "X" * 100_000}, "peft_type is 'XXX"),
        ({"r": 0}, "'r' is 0"),
        ({"r": 10**12}, "which is no rank"),
        ({"r": 8}, "has rank 4, adapter_config.json says 8"),
        ({"r": "4"}, "which is no rank"),
        ({"lora_alpha": "16"}, "'lora_alpha' is '16'"),
        ({"lora_alpha": -1}, "'lora_alpha' is -1"),
        ({"lora_alpha": 10**400}, "'lora_alpha'"),
        ({"lora_dropout": 1.0}, "'lora_dropout' is 1.0"),
        ({"use_dora": "yes"}, "use_dora is 'yes'"),
        ({"use_dora": True}, "use_dora is True, which lora_magnitude_vector contradicts"),
        ({"bias": "all"}, "'bias' is 'all'"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out' is True"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "'layer_replication'"),
        ({"use_qalora": True}, "'use_qalora' is True"),
        ({"something_new": {"a": 1}}, "'something_new'"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": 1}, "init_lora_weights is 1"),
        ({"rank_pattern": {"(a+)+$": 4}}, "only names are read, no regular expressions"),
        ({"alpha_pattern": {"q_proj": "x"}}, "'q_proj' is 'x'"),
        ({"rank_pattern": [4]}, "expected numbers by name"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices and the tensors contradict"),
        ({"trainable_token_indices": [-3]}, "expected ids"),
        ({"trainable_token_indices": {"embed_tokens": "3"}}, "expected ids"),
        ({"task_type": "SEQ_CLS"}, "an adapter for SEQ_CLS"),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    changes: dict[str, Any], said: str, folder: Path
) -> None:
    _config(folder, **changes)
    _refused(folder, said)


@pytest.mark.parametrize("target", ["(a+)+$", ["nothing"], "all-linear", None, 7])
def test_targets_are_read_from_the_tensors(target: object, folder: Path) -> None:
    _config(folder, target_modules=target)
    report = load_adapter(make(), folder)
    assert list(report.adapted) == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_base.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"peft_type": "LORA", "peft_type": "LORA"}', "comes twice"),
        (b'{"peft_type": "LORA", "lora_alpha": NaN}', "is not a number that JSON has"),
        (b"[]", "expected a JSON object"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (b" " * (5 * 2**20), "at most 4194304 are read"),
    ],
)
def test_files_that_are_no_sound_json_are_refused(name: str, content: bytes, said: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    _refused(folder, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "written by a newer version"),
        ({"fingerprint": "0" * 64}, "belongs to another base"),
        ({"fingerprint": "../x"}, "damaged"),
        ({"base_model": 5}, "damaged"),
        ({"config_changes": []}, "damaged"),
    ],
)
def test_a_damaged_memory_of_the_base_is_refused(change: dict[str, Any], said: str, folder: Path) -> None:
    path = folder / "adapter_base.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    _refused(folder, said)


def test_config_changes_cannot_reach_beyond_the_head(folder: Path) -> None:
    path = folder / "adapter_base.json"
    values = json.loads(path.read_text())
    values["config_changes"] = {"num_labels": 3, "auto_map": {"x": "y"}, "num_hidden_layers": 10**9}
    path.write_text(json.dumps(values))
    base = read_adapter_base(folder)
    assert base is not None
    assert base.config_changes == {"num_labels": 3}


def _without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def _with(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without(PREFIX + "lora_B.weight"), "lacks lora_B"),
        (_with(PREFIX + "lora_B.weight", torch.zeros(32, 5)), "is 32 x 16, its lora_A is [4, 16]"),
        (_with(PREFIX + "lora_A.weight", torch.zeros(4)), "its lora_A is [4]"),
        (
            _with(PREFIX + "lora_A.weight", torch.zeros(4, 16, dtype=torch.int32)),
            "nothing that a LoRA adapter",
        ),
        (_with("model.layers.0.mlp.down_proj.lora_A.weight", torch.zeros(4, 24)), "nothing that a LoRA"),
        (
            _with("base_model.model.model.layers.9.mlp.down_proj.lora_A.weight", torch.zeros(4, 24)),
            "no linear",
        ),
        (_with("base_model.model.model.embed_tokens.lora_A.weight", torch.zeros(4, 64)), "no linear layer"),
        (_with(PREFIX + "lora_magnitude_vector", torch.ones(32)), "lora_magnitude_vector contradicts"),
        (_with("base_model.model.config.weight", torch.ones(3)), "the model has no 'config.weight'"),
        (_with("base_model.model.model.norm.weight", torch.ones(3)), "model.norm.weight is [3]"),
        (_with("base_model.model.__class__.weight", torch.ones(3)), "the model has no"),
        (_with(PREFIX + "base_layer.weight", torch.ones(32, 16)), "which is not that of the model at hand"),
        (
            _with(
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", torch.ones(1, 16)
            ),
            "trainable_token_indices and the tensors contradict",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], None], said: str, folder: Path
) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    _refused(folder, said)


def test_rows_of_tokens_beyond_the_vocabulary_are_refused(folder: Path) -> None:
    _config(folder, trainable_token_indices=[1000])
    file = folder / "adapter_model.safetensors"
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    save_file({**load_file(file), name: torch.ones(1, 16)}, file)
    _refused(folder, "token 1000 is not in the model's 64 rows")


def test_a_file_without_tensors_is_no_adapter(folder: Path) -> None:
    save_file({}, folder / "adapter_model.safetensors")
    _refused(folder, "holds no lora_A and lora_B")


def test_a_classification_head_must_be_there(tmp_path: Path) -> None:
    save_adapter(adapted(make(GlmForSequenceClassification)), tmp_path, "x")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.score.weight"]
    save_file(tensors, file)
    _refused(tmp_path, "lacks score.weight", make(GlmForSequenceClassification))


def test_a_pickle_is_never_read(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(folder / "ran"),))

    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    _refused(folder, "only as a pickle (adapter_model.bin)")
    assert not (folder / "ran").exists()


def test_links_out_of_the_folder_and_missing_files_are_refused(folder: Path, sound: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.unlink()
    _refused(folder, "adapter_model.safetensors is missing")
    file.symlink_to(sound / "adapter_model.safetensors")
    _refused(folder, "a link that leads out of the model folder")
    (folder / "adapter_config.json").unlink()
    assert not is_adapter_folder(folder)
    _refused(folder, "no such file; the folder is not an adapter")
    os.mkfifo(folder / "adapter_config.json")
    assert not is_adapter_folder(folder)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_adapter_config(folder)


def test_a_cut_off_file_is_refused(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    _refused(folder, "The file is damaged")


def test_the_sound_folder_is_sound(folder: Path) -> None:
    model = make()
    load_adapter(model, folder)
    assert torch.equal(model(ids()).logits, adapted(make(), targets=("q_proj",))(ids()).logits)
