"""A saved state of a run becomes what the run itself would have left as its model at that step, bit for bit."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train import run
from glm_train.adapters import starts
from glm_train.checkpoint.manifest import write_manifest
from glm_train.checkpoint.safetensors_file import WrittenFile
from glm_train.cli.main import main
from glm_train.config.compose import compose
from glm_train.errors import CheckpointError
from support.exported import make_base
from support.fitted import configured
from support.fitted_texts import texts
from support.fitted_words import conll

Exports = Callable[..., str]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)
LORA = {"adapter": "lora", "adapter.r": 4}
# name -> the task, the base, and the settings of a run of four steps
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("chat", "base", {}),
    "tied": ("chat", "tied-base", {}),
    "lora": ("chat", "base", {**LORA, "adapter.new_tokens": ["<|user|>"], "model.rope_theta": 5000}),
    "pissa": ("chat", "narrow-base", {**LORA, "adapter.init": "pissa", "adapter.dora": True}),
    "narrowed": ("chat", "base", {**LORA, "adapter.init": "olora", "trainer.precision": "bf16-mixed"}),
    "tokens": ("token_classification", "narrow-base", {**LORA, "model.bidirectional": True}),
    "labels": ("sequence_classification", "base", {}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path, chat_file: Path) -> Path:
    """A folder with the bases, and with each run, which saved at steps 2 and 4. Read only."""
    place = tmp_path_factory.mktemp("states")
    make_base(place / "base", tiny_tokenizer_folder)
    make_base(place / "tied-base", tiny_tokenizer_folder, tie_word_embeddings=True, model_type="glm4")
    make_base(place / "narrow-base", tiny_tokenizer_folder, dtype=torch.bfloat16)
    data = {
        "chat": chat_file,
        "token_classification": conll(place / "words.conll"),
        "sequence_classification": texts(place / "texts.jsonl", lambda i, name: [name, "any"][: 1 + i % 2]),
    }
    for name, (task, base, settings) in RUNS.items():
        saving = {"trainer.save_every": 2, "trainer.keep": 9, **settings}
        run.fit(configured(task, place / base, data[task], place / name, **saving), "test")
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it without results, as if the runs had been killed."""
    place = tmp_path / "copy"
    shutil.copytree(made, place, ignore=shutil.ignore_patterns("model", "report.html"))
    for name in RUNS:
        config = place / name / "config.yaml"
        config.write_text(config.read_text().replace(str(made), str(place)))
    monkeypatch.chdir(tmp_path)
    return place


def state(place: Path, name: str, step: int = 4) -> Path:
    return place / name / "checkpoints" / f"step-{step:08d}"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", RUNS)
def test_the_last_state_is_the_result(made: Path, tmp_path: Path, exports: Exports, name: str) -> None:
    said = exports(state(made, name), tmp_path / "of-state")
    assert f"state     {state(made, name)}" in said
    exports(made / name, tmp_path / "of-run")
    assert files(tmp_path / "of-state") == files(tmp_path / "of-run")
    if RUNS[name][2].get("adapter") == "lora":
        exports(state(made, name), tmp_path / "adapter", "--adapter")
        assert files(tmp_path / "adapter") == files(made / name / "model")
    else:
        of_state, left = files(tmp_path / "of-state"), files(made / name / "model")
        same = ("model.safetensors", "tokenizer.json", "chat_template.jinja")
        assert {key: of_state[key] for key in same} == {key: left[key] for key in same}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("name", ["full", "lora"])
def test_an_earlier_state_is_an_earlier_model(
    made: Path, tmp_path: Path, exports: Exports, name: str
) -> None:
    for step in (2, 4):
        exports(state(made, name, step), tmp_path / str(step), "--dtype", "bf16", "--max-shard-size", "90kB")
    two, four = (
        {
            key: t
            for file in (tmp_path / str(step)).glob("*.safetensors")
            for key, t in load_file(file).items()
        }
        for step in (2, 4)
    )
    assert two.keys() == four.keys()
    assert {t.dtype for t in two.values()} == {torch.bfloat16}
    assert not all(torch.equal(tensor, four[key]) for key, tensor in two.items())


@pytest.mark.parametrize(
    ("adapter", "init"),
    [
        ("lora", "pissa"),
        pytest.param("qlora", "default", marks=needs_bitsandbytes),
    ],
)
def test_first_values_found_by_chance_are_found_again(
    made: Path,
    tmp_path: Path,
    exports: Exports,
    monkeypatch: pytest.MonkeyPatch,
    adapter: str,
    init: str,
) -> None:
    """Those of large matrices, by the run's seed and in its order: after the head's, one layer after the other."""
    monkeypatch.setattr(starts, "_EXACT_SIDE", 8)
    settings = {"adapter": adapter, "adapter.r": 4, "adapter.init": init, "seed": 5}
    config = configured(
        "token_classification", made / "narrow-base", made / "words.conll", tmp_path / "run", **settings
    )
    run.fit(config, "test")
    torch.manual_seed(77)
    before = torch.get_rng_state()
    exports(state(tmp_path, "run"), tmp_path / "adapter", "--adapter")
    assert files(tmp_path / "adapter") == files(tmp_path / "run" / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_model_and_the_newest_state(
    place: Path, model_folder: Path, chat_file: Path, tmp_path: Path, exports: Exports
) -> None:
    keeping = {"data.validation": chat_file, "trainer.validate_every": 2, "trainer.result": "best"}
    config = configured("chat", model_folder, chat_file, tmp_path / "kept", **keeping)
    run.fit(config, "test")
    exports(tmp_path / "kept", tmp_path / "of-run")
    exports(tmp_path / "kept" / "best", tmp_path / "of-best")
    assert files(tmp_path / "of-run") == files(tmp_path / "of-best")
    exports(place / "full" / "checkpoints", tmp_path / "newest")
    exports(state(place, "full"), tmp_path / "named")
    assert files(tmp_path / "newest") == files(tmp_path / "named")


def test_a_killed_run_names_its_newest_state_and_the_command(
    place: Path, tmp_path: Path, exports: Exports
) -> None:
    (state(place, "full") / "manifest.json").unlink()  # it was being written
    newest = state(place, "full", 2)
    assert f"glm-train export {newest} FOLDER" in exports(place / "full", tmp_path / "out", code=2)
    exports(newest, tmp_path / "out")


class TestWhatIsRefused:
    def refuses(self, exports: Exports, place: Path, of: Path) -> str:
        before = sorted(place.parent.rglob("*"))
        message = exports(of, place.parent / "out", code=2)
        assert sorted(place.parent.rglob("*")) == before
        return message

    @pytest.mark.parametrize("name", ["full", "lora"])
    def test_a_damaged_state(self, place: Path, exports: Exports, name: str) -> None:
        file = state(place, name) / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert f"{file}: the content is not what was written" in self.refuses(exports, place, file.parent)
        (file.parent / "manifest.json").unlink()
        assert "no manifest.json; the save was not finished" in self.refuses(exports, place, file.parent)

    def test_a_state_of_another_version(self, place: Path, exports: Exports) -> None:
        manifest = state(place, "full") / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
        assert "version 2; this glm-train reads version 1" in self.refuses(exports, place, manifest.parent)

    def test_a_state_without_its_run(self, place: Path, exports: Exports) -> None:
        (place / "full" / "config.yaml").unlink()
        assert f"{place / 'full' / 'config.yaml'} is missing" in self.refuses(
            exports, place, state(place, "full")
        )

    @pytest.mark.parametrize("name", ["full", "lora"])
    def test_a_base_that_is_gone(self, place: Path, exports: Exports, name: str) -> None:
        (place / "base").rename(place / "moved")
        message = self.refuses(exports, place, state(place, name))
        assert "no such folder" in message
        assert f"the model.path of {place / name / 'config.yaml'}" in message
        config = place / name / "config.yaml"
        config.write_text(config.read_text().replace(str(place / "base"), str(place / "moved")))
        exports(state(place, name), place.parent / "out")

    @pytest.mark.parametrize("name", ["full", "lora"])
    def test_another_base(
        self, place: Path, tiny_tokenizer_folder: Path, exports: Exports, name: str
    ) -> None:
        shutil.rmtree(place / "base")
        make_base(place / "base", tiny_tokenizer_folder, num_hidden_layers=3)
        message = self.refuses(exports, place, state(place, name))
        assert "saved with another model.path (its config.json)" in message

    @pytest.mark.parametrize("name", ["lora", "tokens"])
    def test_an_adapter_on_other_weights_of_the_same_shape(
        self, place: Path, exports: Exports, name: str
    ) -> None:
        base = place / RUNS[name][1] / "model.safetensors"
        weights = load_file(base)
        weights["model.layers.1.mlp.down_proj.weight"] *= 1.5
        save_file(weights, base, metadata={"format": "pt"})
        message = self.refuses(exports, place, state(place, name))
        assert "its adapter was trained on other weights than those at model.path now" in message
        config = compose(str(place / name / "config.yaml"), ["resume=auto", f"output_dir={place / name}"])
        with pytest.raises(CheckpointError, match="was trained on other weights"):
            run.fit(config, "test")

    def test_weights_of_other_shapes(
        self, place: Path, tiny_tokenizer_folder: Path, exports: Exports
    ) -> None:
        other = make_base(place / "other", tiny_tokenizer_folder, num_hidden_layers=3)
        shutil.copy(other / "model.safetensors", place / "base" / "model.safetensors")
        message = self.refuses(exports, place, state(place, "full"))
        assert "num_hidden_layers is 2, the weights hold 3 layers" in message

    def test_settings_of_another_run(self, place: Path, exports: Exports) -> None:
        shutil.copy(place / "lora" / "config.yaml", place / "full" / "config.yaml")
        message = self.refuses(exports, place, state(place, "full"))
        assert "saved with another model.path (its config.json) and another adapter" in message

    def test_a_folder_inside_the_run(self, place: Path, exports: Exports) -> None:
        for out in (place / "full" / "out", place / "base" / "out", state(place, "full") / "out"):
            assert "lies inside" in exports(state(place, "full"), out, code=2)
            assert "lies inside" in exports(state(place, "lora"), place / "base" / "out", code=2)

    def test_a_state_is_no_model_to_run(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", str(state(place, "full")), "--prompt", "Hello"]) == 2
        assert f"glm-train export {state(place, 'full')} FOLDER" in capsys.readouterr().err

    def test_a_state_of_labels_without_their_names(self, place: Path, exports: Exports) -> None:
        folder = state(place, "labels")
        values = json.loads((folder / "state.json").read_text())
        del values["position"]["problem"]
        (folder / "state.json").write_text(json.dumps(values))
        (folder / "manifest.json").unlink()
        written = {
            path.name: WrittenFile(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in folder.iterdir()
        }
        write_manifest(folder, written)
        assert "does not say what its labels are" in self.refuses(exports, place, folder)
