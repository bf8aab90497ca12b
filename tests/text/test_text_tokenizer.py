"""GlmTokenizer gives what transformers gives for the same folder, and says what is wrong with a broken one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from glm_train.errors import CheckpointError, DataError
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import BASE_VOCABULARY, SPECIAL_TOKENS, make_tokenizer_folder

TEXTS = [
    "Hello, how are you?",
    "你好，今天北京的天气怎么样？",
    "  two\n\n\nbreaks \t and 1234567 digits, it's\r\n",
    "<|user|>\nhi<|assistant|>",
    "emoji 🙂 and a rare 𠀀",
    "",
]


@pytest.fixture(scope="module")
def ours(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


@pytest.fixture(scope="module")
def theirs(tiny_tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer_folder)


def with_prefix(folder: Path) -> Path:
    """The folder with a post-processor that puts `[gMASK]<sop>` before every text, as some GLM-4 folders have."""
    make_tokenizer_folder(folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    specials = [(token, backend.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
    backend.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B", special_tokens=specials
    )
    backend.save(str(folder / "tokenizer.json"))
    return folder


def edit_config(folder: Path, **changes: Any) -> Path:
    make_tokenizer_folder(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_special_tokens_follow_the_base_vocabulary_in_order(ours: GlmTokenizer, theirs: Any) -> None:
    assert ours.special_tokens == {token: BASE_VOCABULARY + i for i, token in enumerate(SPECIAL_TOKENS)}
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs)) == (400, 414)
    assert ours.pad_token_id == ours.eos_token_id == theirs.pad_token_id == 400
    assert ours.bos_token_id is None
    assert [ours.id_to_token(i) for i in ours.stop_token_ids] == [
        "<|endoftext|>",
        "<|user|>",
        "<|observation|>",
    ]
    assert ours.token_to_id("no such token") is None


@pytest.mark.parametrize("text", TEXTS)
def test_encode_and_decode_equal_transformers(ours: GlmTokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.decode(torch.tensor(ids, dtype=torch.long)) == text


def test_batch_decode_takes_lists_and_tensors(ours: GlmTokenizer, theirs: Any) -> None:
    rows = [ours.encode("Hello<|user|>"), ours.encode("北京")]
    expected = theirs.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    got = ours.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert got == expected == ["Hello", "北京"]
    assert ours.batch_decode([torch.tensor(row) for row in rows]) == ["Hello<|user|>", "北京"]
    assert ours.decode(ours.special_tokens["<sop>"]) == "<sop>"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"padding": True},
        {"padding": "longest", "truncation": True, "max_length": 6},
        {"padding": "max_length", "max_length": 40},
        {"truncation": True, "max_length": 3, "add_special_tokens": False},
        {"padding": True, "return_tensors": "pt"},
    ],
)
@pytest.mark.parametrize("prefixed", [False, True])
def test_call_equals_transformers(tmp_path: Path, arguments: dict[str, Any], prefixed: bool) -> None:
    folder = (with_prefix if prefixed else make_tokenizer_folder)(tmp_path)
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text in (TEXTS, TEXTS[0]):
        got, expected = ours(text, **arguments), theirs(text, **arguments)
        assert set(got) == set(expected) - {"token_type_ids"} == {"input_ids", "attention_mask"}
        for key, value in got.items():
            same = (
                torch.equal(value, expected[key])
                if isinstance(value, torch.Tensor)
                else value == expected[key]
            )
            assert same, key


def test_batch_is_a_mapping_with_attributes_that_moves(ours: GlmTokenizer) -> None:
    batch = ours(["Hello", "Hello, how are you?"], padding=True, return_tensors="pt").to("cpu")
    assert batch.input_ids is batch["input_ids"]
    assert batch.input_ids.dtype == torch.int64
    assert batch.attention_mask[0, 0] == 0  # GLM pads on the left
    assert sorted({**batch}) == ["attention_mask", "input_ids"]
    with pytest.raises(AttributeError, match="position_ids"):
        _ = batch.position_ids
    assert ours("hi", return_tensors="np").input_ids.shape == (1, 2)


def test_wrong_arguments_say_what_is_right(ours: GlmTokenizer) -> None:
    with pytest.raises(ValueError, match="padding=True"):
        ours(["a", "a b"], return_tensors="pt")
    with pytest.raises(ValueError, match="Did you mean 'longest'"):
        ours(["a"], padding="longst")
    with pytest.raises(ValueError, match="return_tensors is 'pt'"):
        ours(["a"], return_tensors="tf")
    with pytest.raises(TypeError, match="takes text, not \\['int'\\]"):
        ours.encode(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="half of a surrogate pair"):
        ours.encode("a\ud800")


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=6)), max_size=6))
def test_plain_encoding_makes_no_control_token_and_loses_nothing(
    ours: GlmTokenizer, parts: list[str]
) -> None:
    text = "".join(parts)
    ids = ours.encode_plain(text)
    assert not set(ids) & set(ours.special_tokens.values())
    assert ours.decode(ids) == text


def test_plain_encoding_leaves_the_other_one_alone(ours: GlmTokenizer) -> None:
    ours.encode_plain("<|user|>")
    assert ours.encode("<|user|>") == [ours.special_tokens["<|user|>"]]
    assert ours.encode_plain("Hello, 北京\n\n") == ours.encode("Hello, 北京\n\n")


def test_added_words_stay_words_in_plain_text(tmp_path: Path) -> None:
    make_tokenizer_folder(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens(["<molecule>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = GlmTokenizer.from_pretrained(tmp_path)
    assert "<molecule>" not in ours.special_tokens
    assert ours.encode_plain("<molecule>") == [ours.token_to_id("<molecule>")] == [414]


def test_saved_files_equal_the_loaded_ones(tmp_path: Path, tiny_tokenizer_folder: Path) -> None:
    GlmTokenizer.from_pretrained(tiny_tokenizer_folder).save_pretrained(tmp_path / "a" / "b")
    for file in tiny_tokenizer_folder.iterdir():
        assert (tmp_path / "a" / "b" / file.name).read_bytes() == file.read_bytes(), file.name
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        GlmTokenizer.from_pretrained(tiny_tokenizer_folder).save_pretrained(tmp_path / "file")


def test_folder_without_template_gets_and_saves_the_built_in_one(
    tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    bare = GlmTokenizer.from_pretrained(make_tokenizer_folder(tmp_path / "bare", template=""))
    bare.save_pretrained(tmp_path / "saved")
    saved = tmp_path / "saved" / "chat_template.jinja"
    assert saved.read_bytes() == (tiny_tokenizer_folder / "chat_template.jinja").read_bytes()
    again = GlmTokenizer.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == bare.fingerprint
    assert pickle.loads(pickle.dumps(bare)).fingerprint == bare.fingerprint


def test_fingerprint_changes_with_what_changes_ids(tmp_path: Path, ours: GlmTokenizer) -> None:
    other_template = GlmTokenizer.from_pretrained(make_tokenizer_folder(tmp_path / "a", template="{{ 1 }}"))
    other_ids = GlmTokenizer.from_pretrained(with_prefix(tmp_path / "b"))
    assert len({ours.fingerprint, other_template.fingerprint, other_ids.fingerprint}) == 3


def test_fingerprint_covers_every_setting(tmp_path: Path, ours: GlmTokenizer) -> None:
    split = edit_config(tmp_path / "a", split_special_tokens=True)
    mapped = make_tokenizer_folder(tmp_path / "b")
    (mapped / "special_tokens_map.json").write_text('{"unk_token": "<eop>"}')
    flags = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False, "special": True}
    strip = edit_config(tmp_path / "c", added_tokens_decoder={"407": {"content": "<|user|>", **flags}})
    prints = {GlmTokenizer.from_pretrained(folder).fingerprint for folder in (split, mapped, strip)}
    assert len(prints | {ours.fingerprint}) == 4


@pytest.mark.parametrize("content", ["  hi", "  hi <|user|>"])
@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_control_tokens_that_eat_blanks_are_refused_in_chats(tmp_path: Path, flag: str, content: str) -> None:
    token = {"content": "<|user|>", "special": True, flag: True}
    tokenizer = GlmTokenizer.from_pretrained(edit_config(tmp_path, added_tokens_decoder={"407": token}))
    with pytest.raises(CheckpointError, match=rf"'<\|user\|>' has {flag} set"):
        tokenizer.apply_chat_template([{"role": "user", "content": content}])


def test_special_tokens_may_be_objects_with_flags(tmp_path: Path) -> None:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    eos = {"__type": "AddedToken", "content": "<|user|>", "special": True, **flags}
    folder = edit_config(tmp_path, eos_token=eos)
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.eos_token_id == theirs.eos_token_id == ours.special_tokens["<|user|>"]


def test_special_tokens_map_names_tokens_that_the_config_does_not(tmp_path: Path) -> None:
    folder = edit_config(tmp_path, eos_token=None)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|observation|>"}')
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.eos_token_id == theirs.eos_token_id == ours.special_tokens["<|observation|>"]


def test_missing_pad_token_is_said_when_padding(tmp_path: Path) -> None:
    ours = GlmTokenizer.from_pretrained(edit_config(tmp_path, pad_token=None))
    assert ours(["a", "b"])["attention_mask"] == [[1], [1]]
    with pytest.raises(CheckpointError, match="names no pad_token"):
        ours(["a", "b"], padding=True)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no_such_folder"):
        GlmTokenizer.from_pretrained(tmp_path / "no_such_folder")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        GlmTokenizer.from_pretrained(tmp_path)
    make_tokenizer_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token":\n oops}')
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json:2: broken JSON"):
        GlmTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object, found list"):
        GlmTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be loaded"):
        GlmTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("key", ["eos_token", "additional_special_tokens"])
def test_declared_token_must_be_in_the_vocabulary(tmp_path: Path, key: str) -> None:
    token = "<|userr|>"
    folder = edit_config(tmp_path, **{key: token if key == "eos_token" else [token]})
    with pytest.raises(CheckpointError, match=rf"{key} names .*<\|userr\|>.*Did you mean '<\|user\|>'"):
        GlmTokenizer.from_pretrained(folder)


def test_wrong_values_in_the_configuration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="padding_side is 'left' or 'right', not 'both'"):
        GlmTokenizer.from_pretrained(edit_config(tmp_path, padding_side="both"))
    with pytest.raises(CheckpointError, match="added_tokens_decoder is malformed"):
        GlmTokenizer.from_pretrained(edit_config(tmp_path, added_tokens_decoder={"400": "<|endoftext|>"}))


def test_flags_in_the_configuration_win_as_in_transformers(tmp_path: Path) -> None:
    flags = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    folder = edit_config(tmp_path, added_tokens_decoder={"407": {"content": "<|user|>", **flags}})
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.encode("a  <|user|> b") == theirs.encode("a  <|user|> b") == [64, 407, *ours.encode(" b")]


def test_text_needs_no_heavy_package() -> None:
    code = "import sys, glm_train.text.chat as c; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("value", [3, ["x"], [{"name": "default"}], [{"name": "default", "template": 1}]])
def test_malformed_template_entry_is_refused(tmp_path: Path, value: Any) -> None:
    make_tokenizer_folder(tmp_path, template="")
    folder = edit_config(tmp_path, chat_template=value)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="chat_template must be a string or a list"):
        GlmTokenizer.from_pretrained(folder)


def test_a_control_token_that_ordinary_text_can_make_is_refused(tmp_path: Path) -> None:
    folder = edit_config(tmp_path, additional_special_tokens=["get"])
    with pytest.raises(CheckpointError, match="'get' is also an ordinary word of the vocabulary"):
        GlmTokenizer.from_pretrained(folder)
