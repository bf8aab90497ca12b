"""`glm-train convert` that is refused, fails or is cut off: one clear message, and nothing is left."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glm_train import convert as conversion
from glm_train.checkpoint import same_model
from glm_train.checkpoint.weights import read_tensor
from glm_train.cli.main import main
from support.chatglm_folder import CONFIG, make_chatglm_folder, read_tensors
from support.converted import OTHERS, files, hugging_face_folder
from support.tiny_models import VARIANTS

Converts = Callable[..., str]


class TestNothingIsLeft:
    @pytest.fixture(autouse=True)
    def _nothing_new(self, tmp_path: Path) -> Any:
        yield
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]

    def test_where_a_tensor_was_written_wrong(
        self, tmp_path: Path, converts: Converts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        monkeypatch.setattr(conversion, "read_tensor", lambda stored: _nudged(stored))
        message = converts(source, tmp_path / "b", code=3)
        assert "model.layers.1.self_attn.k_proj.weight was written with other values" in message

    def test_where_the_base_gets_lost(
        self, tmp_path: Path, converts: Converts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = hugging_face_folder(tmp_path / "a", rope_theta=5e6)
        right = conversion.chatglm_config.from_hugging_face
        monkeypatch.setattr(
            conversion.chatglm_config, "from_hugging_face", lambda config: {**right(config), "rope_ratio": 1}
        )
        assert "rope_theta: 5000000.0 became 10000.0" in converts(source, tmp_path / "b", code=3)

    def test_where_the_logits_differ(
        self, tmp_path: Path, converts: Converts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        monkeypatch.setattr(conversion, "read_tensor", lambda stored: _nudged(stored))
        monkeypatch.setattr(same_model, "_same_bytes", lambda *_: True)
        assert "its outputs by up to" in converts(source, tmp_path / "b", code=3)

    def test_where_the_numbers_are_none(self, tmp_path: Path, converts: Converts) -> None:
        name = "transformer.encoder.final_layernorm.weight"
        source = make_chatglm_folder(tmp_path / "a", extra_tensors={name: torch.full((48,), 1e38)}, shards=2)
        assert "no finite numbers in float16" in converts(
            source, tmp_path / "b", "--dtype", "float16", code=3
        )

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), 2, "are free"),
            (OSError(errno.EIO, "Input/output error"), 2, "could not be written"),
            (KeyboardInterrupt(), 130, "Ctrl-C"),
        ],
    )
    def test_where_it_is_cut_off(
        self,
        tmp_path: Path,
        converts: Converts,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        code: int,
        words: str,
    ) -> None:
        source, made = make_chatglm_folder(tmp_path / "a"), []

        def fail(stored: Any) -> Any:
            made.append(stored)
            if len(made) == 9:
                raise error
            return read_tensor(stored)

        monkeypatch.setattr(conversion, "read_tensor", fail)
        assert words in converts(source, tmp_path / "b", code=code)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["a", "a"], "the same folder"),
            (["a", "a/../a/"], "the same folder"),
            (["a", "a/config.json"], "a file"),
            (["missing", "b"], "missing"),
            (["./missing", "b"], "no such folder"),
            (["a", "b", "--to", "chatglm"], "in the layout chatglm already"),
            (["a", "b", "--to", "huggingface"], "expected hf or chatglm"),
            (["a", "b", "--dtype", "bf16"], "expected one of float32, bfloat16, float16. Did you mean"),
            (["a", "x" * 300], "cannot be the name"),
            (["a", "."], "the current folder"),
        ],
    )
    def test_where_the_arguments_are_wrong(
        self,
        tmp_path: Path,
        converts: Converts,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        words: str,
    ) -> None:
        make_chatglm_folder(tmp_path / "a")
        before = files(tmp_path / "a")
        (tmp_path / "a" / "b").mkdir()
        monkeypatch.chdir(tmp_path)
        message = converts(*arguments, code=2)
        assert words in message
        (tmp_path / "a" / "b").rmdir()
        assert files(tmp_path / "a") == before

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"padded_vocab_size": 65024}, "ChatGLM2 or ChatGLM3"),
            ({"rmsnorm": False}, "rmsnorm: GLM-4 has True"),
            ({"num_layers": 4}, "num_hidden_layers is 4, the weights hold 3 layers"),
            ({"rope_ratio": float("nan")}, "rope_ratio: expected a number above 0"),
        ],
    )
    def test_where_the_source_is_no_glm4(
        self, tmp_path: Path, converts: Converts, changes: dict[str, Any], words: str
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        (source / "config.json").write_text(json.dumps({**CONFIG, **changes}))
        assert words in converts(source, tmp_path / "b", code=2)

    @pytest.mark.parametrize("variant", OTHERS)
    def test_where_the_original_has_no_form(self, tmp_path: Path, converts: Converts, variant: str) -> None:
        source = hugging_face_folder(tmp_path / "a", **VARIANTS[variant])
        assert "rotates half of each head" in converts(source, tmp_path / "b", code=2)

    def test_where_a_classifier_has_a_bias(self, tmp_path: Path, converts: Converts) -> None:
        source = make_chatglm_folder(tmp_path / "a", labels=2, classifier_bias=1.0)
        assert "the classifier has a bias" in converts(source, tmp_path / "b", code=2)

    def test_where_parts_of_one_tensor_have_two_dtypes(self, tmp_path: Path, converts: Converts) -> None:
        source = hugging_face_folder(tmp_path / "a")
        tensors = read_tensors(source)
        name = "model.layers.1.self_attn.k_proj.weight"
        save_file({**tensors, name: tensors[name].bfloat16()}, source / "model.safetensors")
        assert f"{name}, " in converts(source, tmp_path / "b", code=2)

    def test_where_a_file_is_a_link_out_of_the_model(self, tmp_path: Path, converts: Converts) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        (source / "tokenizer.json").symlink_to("/etc/hostname")
        assert "leads out of the model" in converts(source, tmp_path / "b", code=2)

    def test_where_a_file_is_a_pipe(
        self, tmp_path: Path, converts: Converts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        os.mkfifo(source / "tokenizer.model")
        monkeypatch.setattr(conversion, "read_tensor", None)  # asked before anything is written
        assert "not a regular file" in converts(source, tmp_path / "b", code=2)


def _nudged(stored: Any) -> torch.Tensor:
    """A tensor as it is read, but for the keys of one layer."""
    tensor = read_tensor(stored)
    if ".layers.1.self_attention.query_key_value.weight" in stored.name and stored.rows == (64, 96):
        return tensor * 1.0001
    return tensor


def test_a_half_made_folder_is_not_taken_for_ours(tmp_path: Path, converts: Converts) -> None:
    (tmp_path / "b.part").mkdir()
    message = converts(make_chatglm_folder(tmp_path / "a"), tmp_path / "b", code=2)
    assert "b.part is there" in message
    assert (tmp_path / "b.part").is_dir()


@pytest.mark.parametrize("option", ["--rope-theta", "--max-shard-gb"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many"])
def test_numbers_are_checked(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["convert", "a", "b", f"{option}={value}"])
    assert caught.value.code == 2
    assert "expected a number above 0" in capsys.readouterr().err
