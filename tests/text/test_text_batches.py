"""Padding, truncation and the names of tokens are those of transformers on the same folder."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_text_tokenizer import edit_config, with_prefix
from transformers import AutoTokenizer

from glm_train.errors import DataError
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS, make_tokenizer_folder

TEXTS = ["Hello, how are you?", "你好", "", "<|user|>\nhi  <|assistant|>", "1234567 and more"]
CHATS = [
    [{"role": "user", "content": "北京天气？"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, how are you?"}],
]


@pytest.fixture
def both(tmp_path: Path) -> tuple[GlmTokenizer, Any]:
    folder = make_tokenizer_folder(tmp_path)
    return GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def same(got: Any, expected: Any) -> None:
    assert set(got) == set(expected) - {"token_type_ids"}
    for key, value in got.items():
        assert type(value) is type(expected[key])
        np.testing.assert_array_equal(np.asarray(value), np.asarray(expected[key]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": True},
        {"padding": "longest", "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 21, "truncation": True},
        {"padding": "max_length", "max_length": 24, "truncation": True, "pad_to_multiple_of": 8},
        {"padding": True, "max_length": 4, "truncation": "longest_first"},
        {"padding": True, "padding_side": "right"},
    ],
)
@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_padded_batches_equal_transformers(
    both: tuple[GlmTokenizer, Any], side: str, arguments: dict[str, Any], kind: str | None
) -> None:
    ours, theirs = both
    ours.padding_side = theirs.padding_side = side
    got, expected = (t(TEXTS, return_tensors=kind, **arguments) for t in both)
    if kind is None:
        assert got == {key: value for key, value in expected.items() if key != "token_type_ids"}
    else:
        same(got, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_follows_its_side(tmp_path: Path, side: str) -> None:
    folder = with_prefix(tmp_path)
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ours.truncation_side = theirs.truncation_side = side
    for length in (1, 2, 3, 5):
        got = ours(TEXTS[0], truncation=True, max_length=length, add_special_tokens=False)
        assert (
            got["input_ids"]
            == theirs(TEXTS[0], truncation=True, max_length=length, add_special_tokens=False)["input_ids"]
        )
        chat = ours.apply_chat_template(CHATS[0], truncation=True, max_length=length)
        assert chat == theirs.apply_chat_template(
            CHATS[0], truncation=True, max_length=length, return_dict=False
        )


def test_padding_is_on_the_left_unless_said_otherwise(tmp_path: Path) -> None:
    folder = edit_config(tmp_path / "a", padding_side="right")
    assert GlmTokenizer.from_pretrained(folder).padding_side == "right"
    tokenizer = GlmTokenizer.from_pretrained(make_tokenizer_folder(tmp_path / "b"))
    batch = tokenizer(["你好", "Hello, how are you?"], padding=True, return_tensors="pt")
    assert batch.attention_mask[0].tolist() == sorted(batch.attention_mask[0].tolist())
    assert batch.input_ids[0, 0] == tokenizer.pad_token_id
    with pytest.raises(ValueError, match="padding_side is 'left' or 'right', not 'both'"):
        tokenizer.padding_side = "both"
    with pytest.raises(ValueError, match="truncation_side is 'left' or 'right', not None"):
        tokenizer.truncation_side = None  # type: ignore[assignment]
    tokenizer.padding_side = "right"
    assert pickle.loads(pickle.dumps(tokenizer)).padding_side == "right"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length is a number of tokens from 1 on, not 0"),
        ({"max_length": -1}, "not -1"),
        ({"max_length": "9"}, "not '9'"),
        ({"max_length": True}, "not True"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of is a number of tokens"),
        ({"padding": True, "padding_side": "up"}, "padding_side is 'left' or 'right', not 'up'"),
        ({"truncation": "only_second"}, "truncation is True or False for one text, not 'only_second'"),
        (
            {"padding": True, "truncation": True, "max_length": 21, "pad_to_multiple_of": 8},
            "max_length=21 is no multiple of pad_to_multiple_of=8",
        ),
        ({"padding": "max-length"}, "Did you mean 'max_length'"),
    ],
)
def test_wrong_lengths_and_sides_are_refused(
    both: tuple[GlmTokenizer, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        both[0](["a"], **arguments)


def test_padding_to_no_length_is_refused(tmp_path: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(edit_config(tmp_path, model_max_length=int(1e30)))
    with pytest.raises(ValueError, match="needs max_length: the folder sets no model_max_length"):
        tokenizer("a", padding="max_length")
    assert tokenizer.model_max_length == AutoTokenizer.from_pretrained(tmp_path).model_max_length


def test_a_batch_is_what_a_model_is_called_with(both: tuple[GlmTokenizer, Any]) -> None:
    batch = both[0](TEXTS, padding=True, return_tensors="pt")

    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return input_ids * attention_mask

    assert torch.equal(model(**batch), batch.input_ids * batch["attention_mask"])
    assert list(batch.keys()) == ["input_ids", "attention_mask"]
    assert batch.to("meta").input_ids.device.type == "meta"
    assert pickle.loads(pickle.dumps(both[0]("hi"))) == both[0]("hi")


@pytest.mark.parametrize("padding", [True, "max_length"])
def test_batches_of_chats_equal_transformers(both: tuple[GlmTokenizer, Any], padding: bool | str) -> None:
    arguments: dict[str, Any] = {"padding": padding, "max_length": 40, "truncation": True}
    for chats in (CHATS, CHATS[0]):
        got, expected = (
            t.apply_chat_template(
                chats,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                **arguments,
            )
            for t in both
        )
        same(got, expected)


def test_encode_gives_tensors_too(both: tuple[GlmTokenizer, Any]) -> None:
    got, expected = (t.encode("Hello 北京", return_tensors="pt") for t in both)
    assert torch.equal(got, expected)
    assert got.shape[0] == 1


def test_names_and_ids_of_tokens_equal_transformers(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.model_max_length == theirs.model_max_length == 131072
    assert set(ours.all_special_tokens) == set(theirs.all_special_tokens) == set(SPECIAL_TOKENS)
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    assert ours.special_tokens_map == {
        name: token for name, token in theirs.special_tokens_map.items() if isinstance(token, str)
    }
    for tokens in ("<|user|>", ["<|user|>", "Ġ", "!"], []):
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    ids = ours.encode("Hello<|user|>北京")
    for skip in (False, True):
        got = ours.convert_ids_to_tokens(ids, skip_special_tokens=skip)
        assert got == theirs.convert_ids_to_tokens(ids, skip_special_tokens=skip)
    assert ours.convert_ids_to_tokens(407) == theirs.convert_ids_to_tokens(407) == "<|user|>"
    assert ours.convert_ids_to_tokens(torch.tensor([407])) == ["<|user|>"]
    assert ours.convert_tokens_to_ids("no token") is None


@pytest.mark.parametrize("content", ["It is", "It is  ", "  It\n\n", "<|user|> it", "你好，"])
@pytest.mark.parametrize(
    "source", [None, "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content|trim }}<|user|>{% endfor %}"]
)
def test_a_last_message_can_be_left_open(tmp_path: Path, content: str, source: str | None) -> None:
    folder = make_tokenizer_folder(tmp_path, template=source)
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chat = [*CHATS[0], {"role": "assistant", "content": content}]
    arguments: dict[str, Any] = {"continue_final_message": True, "tokenize": False}
    expected = theirs.apply_chat_template(chat, **arguments)
    assert ours.apply_chat_template(chat, **arguments) == expected
    assert ours.apply_chat_template([chat], **arguments) == [expected]
    ids = ours.apply_chat_template(chat, continue_final_message=True)
    assert ours.decode(ids) == expected
    assert ids[-1] != ours.token_to_id("<|user|>")
    assert chat[-1]["content"] == content


def test_what_cannot_be_left_open_is_refused(both: tuple[GlmTokenizer, Any], tmp_path: Path) -> None:
    ours = both[0]
    with pytest.raises(ValueError, match="continue_final_message opens none"):
        ours.apply_chat_template(CHATS[0], continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(DataError, match="no text to continue"):
        ours.apply_chat_template([{"role": "assistant"}], continue_final_message=True)
    with pytest.raises(DataError, match="leaves out the last message"):
        ours.apply_chat_template([*CHATS[0], {"role": "tool", "content": "x"}], continue_final_message=True)
    with pytest.raises(ValueError, match="return_assistant_tokens_mask is not taken"):
        ours.apply_chat_template(CHATS[0], return_assistant_tokens_mask=True)


def test_a_template_can_be_given_or_picked_by_name(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    source = "{{ messages[0].content }}{{ documents[0].title }}"
    arguments: dict[str, Any] = {"chat_template": source, "documents": [{"title": "T"}], "tokenize": False}
    assert ours.apply_chat_template(CHATS[0], **arguments) == "北京天气？T"
    assert theirs.apply_chat_template(CHATS[0], **arguments) == "北京天气？T"
    with pytest.raises(ValueError, match=r"no chat template is named 'tool_use' \(the folder's: default\)"):
        ours.apply_chat_template(CHATS[0], chat_template="tool_use")


@pytest.mark.parametrize(
    ("chat", "options", "error", "message"),
    [
        ("hi", {}, DataError, "messages: expected a list of JSON objects, found str"),
        (CHATS[0][0], {}, DataError, "messages: expected a list of JSON objects, found dict"),
        ([CHATS[0], []], {}, DataError, "an empty conversation"),
        (CHATS[0], {"tools": {"name": "f"}}, DataError, "tools: expected a list of JSON objects, found dict"),
        (CHATS[0], {"tools": ["f"]}, DataError, r"tools\[0\]: expected a JSON object, found str"),
        (CHATS[0], {"tools": [print]}, DataError, r"tools\[0\]: expected JSON data"),
        (
            CHATS[0],
            {"chat_template": 5},
            TypeError,
            "chat_template is a name or a template's source, not int",
        ),
    ],
)
def test_what_is_no_conversation_is_said(
    both: tuple[GlmTokenizer, Any], chat: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        both[0].apply_chat_template(chat, **options)


@pytest.mark.parametrize("text", [None, 3, {"a": 1}])
def test_what_is_no_text_is_said(both: tuple[GlmTokenizer, Any], text: Any) -> None:
    with pytest.raises(TypeError, match=f"a text or a list of texts, not {type(text).__name__}"):
        both[0](text)
