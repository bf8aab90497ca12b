"""An export that is refused, fails or is cut off: one clear message, and nothing is left."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train.adapters import opened
from glm_train.adapters.stream_merge import FileAdapter
from support.exported import SETTINGS, make_base, make_run

Exports = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """A folder with a base and two runs. Read only."""
    place = tmp_path_factory.mktemp("made")
    base = make_base(place / "base", tiny_tokenizer_folder)
    make_run(place / "full", base, "chat")
    make_run(place / "lora", base, "chat", adapter=SETTINGS)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which the adapter's base lies in; afterwards there is nothing more in it than before."""
    place = tmp_path / "copy"
    shutil.copytree(made, place)
    path = place / "lora" / "model" / "adapter_base.json"
    path.write_text(path.read_text().replace(str(made), str(place)))
    monkeypatch.chdir(tmp_path)
    return place


def names(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


class TestWhatIsWrittenWrong:
    def refuses(self, exports: Exports, place: Path, *arguments: object, code: int = 3) -> str:
        before = names(place)
        message = exports(*arguments, code=code)
        assert names(place) == before
        return message

    def test_a_tensor_that_the_disk_changed(
        self, place: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right, made = opened.Opened._deferred, []

        def wrong(self: Any, name: str, target: Any, dtype: Any) -> Any:
            found = right(self, name, target, dtype)

            def make() -> torch.Tensor:
                made.append(name)
                return found.make() * (1.001 if made.count(name) == 1 and "layers.1.mlp.down" in name else 1)

            return type(found)(found.dtype, found.shape, make)

        monkeypatch.setattr(opened.Opened, "_deferred", wrong)
        for run in ("full", "lora"):
            made.clear()
            message = self.refuses(exports, place, place / run, place / "out")
            assert "tensor model.layers.1.mlp.down_proj.weight was written with other values" in message

    @pytest.mark.parametrize("dtype", ["auto", "bf16"])
    def test_a_merge_with_a_wrong_scaling(
        self, place: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch, dtype: str
    ) -> None:
        right = FileAdapter._folded

        def wrong(self: Any, layer: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            merged = right(self, layer, weight, torch.float32)
            return (weight + 0.97 * (merged - weight)).to(dtype)

        monkeypatch.setattr(FileAdapter, "_folded", wrong)
        message = self.refuses(exports, place, place / "lora", place / "out", "--dtype", dtype)
        assert "merged in fp32, the adapter's logits differ from the run's by up to" in message

    def test_a_difference_above_the_tolerance(self, place: Path, exports: Exports) -> None:
        arguments = (place / "full", place / "out", "--dtype", "bf16", "--tolerance", "1e-5")
        message = self.refuses(exports, place, *arguments)
        assert "1e-05 is allowed. Nothing was kept. Export with --dtype fp32" in message

    def test_weights_that_are_not_finite(self, place: Path, exports: Exports) -> None:
        path = place / "lora" / "model" / "adapter_model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values()))[0] = float("nan")
        save_file(tensors, path)
        assert "not finite" in self.refuses(exports, place, place / "lora", place / "out")

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), 2, "are free"),
            (OSError(errno.EIO, "Input/output error"), 2, "could not be written"),
            (KeyboardInterrupt(), 130, "Ctrl-C"),
        ],
    )
    def test_a_work_that_is_cut_off(
        self,
        place: Path,
        exports: Exports,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        code: int,
        words: str,
    ) -> None:
        right, made = FileAdapter.merged, []

        def fail(self: Any, *arguments: Any) -> torch.Tensor:
            made.append(arguments)
            if len(made) == 9:
                raise error
            return right(self, *arguments)

        monkeypatch.setattr(FileAdapter, "merged", fail)
        assert words in self.refuses(exports, place, place / "lora", place / "out", code=code)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["full", "full"], "a folder that is not empty"),
            (["full", "full/out"], "lies inside"),
            (["full", "full/model/out"], "lies inside"),
            (["full/model", "full/out"], "lies inside"),
            (["lora", "base/merged"], "lies inside"),
            (["full", "base"], "a folder that is not empty"),
            (["full", "base/config.json"], "a file"),
            (["full", "."], "the current folder"),
            (["full", "x" * 300], "cannot be the name"),
            (["./missing", "out"], "no such folder"),
            (["full/config.yaml", "out"], "is a file"),
            (
                ["full", "out", "--dtype", "fp16"],
                "expected one of auto, fp32, bf16. GLM overflows in float16",
            ),
            (["full", "out", "--dtype", "b16"], "Did you mean 'bf16'"),
            (["full", "out", "--layout", "chatgml"], "Did you mean 'chatglm'"),
            (["full", "out", "--tolerance", "5"], "from 0 to below 1"),
            (["full", "out", "--max-shard-size", "lots"], "expected a size such as 5GB"),
            (["full", "out", "--max-shard-size", "0"], "expected a size such as 5GB"),
            (["full", "out", "--adapter"], "holds a whole model, not an adapter"),
            (["lora", "out", "--adapter", "--dtype", "bf16"], "have no effect with it"),
            (["lora", "out", "--adapter", "--layout", "chatglm"], "have no effect with it"),
            (["lora", "out", "--adapter", "--max-shard-size", "1GB"], "an adapter is one file"),
            (["full", "out", "--prompt", "  "], "--prompt is empty"),
            (["full", "out", "--prompt", "word " * 400], "256 at most"),
        ],
    )
    def test_wrong_arguments(
        self,
        place: Path,
        exports: Exports,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        words: str,
    ) -> None:
        monkeypatch.chdir(place)
        assert words in self.refuses(exports, place, *arguments, code=2)


class TestWhatIsNotThere:
    def test_a_run_that_did_not_finish(self, place: Path, exports: Exports) -> None:
        shutil.rmtree(place / "full" / "model")
        assert "this run has no model yet" in exports(place / "full", place / "out", code=2)

    def test_a_run_killed_while_it_wrote_its_model(self, place: Path, exports: Exports) -> None:
        (place / "full" / "model" / "model.safetensors").unlink()
        assert "neither model.safetensors nor" in exports(place / "full", place / "out", code=2)
        (place / "lora" / "model" / "adapter_model.safetensors").unlink()
        assert "was not copied completely" in exports(place / "lora", place / "out", code=2)

    def test_a_base_that_is_gone(self, place: Path, exports: Exports) -> None:
        (place / "base").rename(place / "moved")
        message = exports(place / "lora", place / "out", code=2)
        assert "the adapter's base model is not there" in message
        path = place / "lora" / "model" / "adapter_base.json"
        assert str(path) in message
        path.write_text(path.read_text().replace(str(place / "base"), str(place / "moved")))
        exports(place / "lora", place / "out")

    def test_a_base_that_was_trained_on(self, place: Path, exports: Exports) -> None:
        shutil.rmtree(place / "base")
        shutil.copytree(place / "full" / "model", place / "base")
        message = exports(place / "lora", place / "out", code=2)
        assert "this adapter was trained on another model than" in message

    def test_a_tokenizer_of_another_model(self, place: Path, exports: Exports) -> None:
        path = place / "full" / "model" / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "eos_token_id": [7]}))
        assert "tokenizer and model do not belong together" in exports(place / "full", place / "out", code=2)

    def test_a_model_that_the_original_layout_cannot_hold(
        self, tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports
    ) -> None:
        base = make_base(tmp_path / "base", tiny_tokenizer_folder, partial_rotary_factor=1.0)
        run, _ = make_run(tmp_path / "run", base, "chat")
        message = exports(run, tmp_path / "out", "--layout", "chatglm", code=2)
        assert "rotary" in message
        assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]

    def test_what_an_earlier_export_left(self, place: Path, exports: Exports) -> None:
        (place / "out.part").mkdir()
        assert "left by a command that was killed" in exports(place / "full", place / "out", code=2)
        assert (place / "out.part").is_dir()
