"""Hostile config.json and generation_config.json: no code, no hang, no memory; what has no meaning has no effect."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmForCausalLM
from support.refusals import CANARY, Spoil, WatchedProcess

CONFIG, GENERATION = "config.json", "generation_config.json"
CODE = "import pathlib\npathlib.Path(__file__).parent.parent.joinpath('{}').mkdir()\nclass Evil: pass\n"


def keys(name: str = CONFIG, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | changes))

    return spoil


def with_code(spoil: Spoil) -> Spoil:
    """The same, with code of the names that transformers would look for."""

    def both(folder: Path) -> None:
        for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py", "evil.py"):
            (folder / name).write_text(CODE.format(CANARY))
        spoil(folder)

    return both


def text(content: str | bytes, name: str = CONFIG) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def huge(name: str) -> Spoil:
    """10 GiB that take no room on the disk."""

    def spoil(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(10 * 2**30)

    return spoil


def replaced(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


AUTO_MAP = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
NO_EFFECT: dict[str, Spoil] = {
    "auto_map": with_code(keys(auto_map=AUTO_MAP)),
    "auto_map to another repository": with_code(keys(auto_map={"AutoModelForCausalLM": "evil/code--evil.Evil"})),
    "auto_map of no sense": keys(auto_map=[["__import__"], {"os": "system"}]),
    "trust_remote_code": with_code(keys(trust_remote_code=True, auto_map=AUTO_MAP)),
    "_attn_implementation_internal": with_code(keys(_attn_implementation_internal="evil/kernel")),
    "attn_implementation": with_code(keys(_attn_implementation="evil/kernel", attn_implementation="evil/kernel")),
    "custom_pipelines": with_code(keys(custom_pipelines={"text-generation": {"impl": "evil.Evil"}})),
    "_target_": with_code(keys(_target_="os.system", _args_=["mkdir canary"], command="mkdir canary")),
    "architectures": with_code(keys(architectures=["evil.Evil", "os.system", "__import__('os')"])),
    "_name_or_path": keys(_name_or_path="../outside", _commit_hash="../../outside"),
    "names of Python's own": keys(**{"__class__": "Evil", "__dict__": {}, "__init__": 1, "self": 1, "cls": 2}),
    "names of the class's own": keys(to_dict="x", from_dict=1, extra={"a": 1}, save_pretrained="y", _labels=3),
    "generation: auto_map": with_code(keys(GENERATION, auto_map=AUTO_MAP)),
    "generation: custom_generate": with_code(keys(GENERATION, custom_generate="evil/code", _target_="os.system")),
}  # fmt: skip
REFUSED: dict[str, tuple[Spoil, str]] = {
    "model_type a path": (keys(model_type="../outside"), "model_type '../outside'"),
    "model_type a list": (keys(model_type=["glm"]), "model_type"),
    "dtype a name to look up": (keys(dtype="os.system"), "dtype: expected one of"),
    "torch_dtype an object": (keys(torch_dtype={"__reduce__": "x"}), "torch_dtype: expected one of"),
    "activation a name to look up": (keys(hidden_act="os.system"), "hidden_act: expected one of"),
    "ten million layers": (keys(num_hidden_layers=10**7), "the weights hold 2 layers"),
    "head of 2**52 channels": (keys(head_dim=2**52), "config.json and the weights"),
    "negative size": (keys(hidden_size=-1), "hidden_size: expected a positive whole number"),
    "size of a thousand digits": (keys(hidden_size=10**1000), "hidden_size"),
    "NaN": (keys(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "infinite": (keys(initializer_range=float("inf")), "initializer_range"),
    "a billion labels": (keys(num_labels=10**9), "num_labels"),
    "labels of no sense": (keys(id2label={"-1": "a", "x": "b"}), "id2label"),
    "rotary settings of no sense": (keys(rope_parameters={"rope_type": "os.system"}), "rope"),
    "quantised": (keys(quantization_config={"quant_method": "evil"}), "quantization_config"),
    "no model_type": (text("{}"), "no 'model_type'"),
    "a list": (text("[]"), "expected a JSON object"),
    "not JSON": (text("{'model_type': 'glm'}"), "cannot be read as JSON"),
    "not UTF-8": (text(b"\xff\xfe{}"), "config.json: cannot be read"),
    "a million deep": (text('{"model_type":' + "[" * 10**6), "config.json"),
    "10 GiB": (huge(CONFIG), "10737418240 bytes"),
    "a pipe": (replaced(CONFIG, os.mkfifo), "not a regular file"),
    "a device": (replaced(CONFIG, lambda path: path.symlink_to("/dev/zero")), "not a regular file"),
    "missing": (replaced(CONFIG, lambda path: None), "no config.json"),
    "generation: a million deep": (text("[" * 10**6, GENERATION), "nested too deeply"),
    "generation: not JSON": (text("<html>", GENERATION), "cannot be read as JSON"),
    "generation: 10 GiB": (huge(GENERATION), "10737418240 bytes"),
    "generation: a pipe": (replaced(GENERATION, os.mkfifo), "not a regular file"),
    "generation: a device": (replaced(GENERATION, lambda path: path.symlink_to("/dev/zero")), "not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_config_is_refused(
    watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str
) -> None:
    spoil, reason = REFUSED[case]
    watched.load_spoilt(sound_folder, spoil, tmp_path).assert_refused(reason)


@pytest.mark.parametrize("case", NO_EFFECT)
def test_code_in_a_config_has_no_effect(
    watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str
) -> None:
    outcome = watched.load_spoilt(sound_folder, NO_EFFECT[case], tmp_path)
    outcome.assert_loaded()
    model, sound = (GlmForCausalLM.from_pretrained(folder) for folder in (outcome.folder, sound_folder))
    ids = torch.tensor([[5, 9, 33, 7]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, sound(ids).logits)
    model.save_pretrained(tmp_path / "saved")
    written = "".join((tmp_path / "saved" / name).read_text() for name in (CONFIG, GENERATION))
    for word in ("auto_map", "trust_remote_code", "attn_implementation", "custom_", "_target_", "outside"):
        assert word not in written
