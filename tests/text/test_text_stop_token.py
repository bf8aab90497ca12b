"""The stop token of each trained turn: GLM's role tokens, or `<|endoftext|>` as LLaMA-Factory trains it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from text_chat_cases import as_mappings, marked, tokenizer_of
from text_templates import GLM_4_9B_CHAT, GLM_EDGE
from transformers.loss.loss_utils import ForCausalLMLoss

from glm_train.data.collate import pack
from glm_train.data.prepare import prepare_chat
from glm_train.errors import ConfigError
from glm_train.text.chat import Conversation, Message, encode_chat
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS, make_tokenizer_folder

HI, HELLO, BYE, NO = (
    Message("user", "hi"),
    Message("assistant", "Hello"),
    Message("user", "bye"),
    Message("assistant", "no"),
)
CALL, RESULT = Message("assistant", "{}", "get"), Message("observation", "31")
TALK = Conversation((HI, HELLO, BYE, NO))
AGENT = Conversation((HI, NO, CALL, CALL, RESULT, RESULT, HELLO))


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def test_endoftext_is_the_label_and_the_next_role_stays_in_the_ids(tokenizer: GlmTokenizer) -> None:
    example = encode_chat(tokenizer, TALK, stop_token="endoftext")
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> *Ċ *Hel *lo *<|user|>><|endoftext|>"
        " Ċ b y e <|assistant|> *Ċ *no *<|endoftext|>"
    )
    role = encode_chat(tokenizer, TALK)
    assert example.input_ids[:-1] == role.input_ids[:-1]
    assert example.stop_positions == role.stop_positions


def test_only_the_end_of_a_turn_is_endoftext(tokenizer: GlmTokenizer) -> None:
    """Between its own messages the assistant goes on: the label there stays `<|assistant|>`."""
    call = "*get *Ċ *{ *}"
    assert marked(tokenizer, encode_chat(tokenizer, AGENT, stop_token="endoftext")) == (
        f"[gMASK] <sop> <|user|> Ċ h i <|assistant|> *Ċ *no *<|assistant|> {call} *<|assistant|> {call}"
        " *<|observation|>><|endoftext|> Ċ 31 <|observation|> Ċ 31 <|assistant|> *Ċ *Hel *lo *<|endoftext|>"
    )
    ends_with_call = encode_chat(tokenizer, Conversation((HI, CALL, RESULT)), stop_token="endoftext")
    assert marked(tokenizer, ends_with_call).endswith(f"<|assistant|> {call} *<|endoftext|>")


@pytest.mark.parametrize("source", [GLM_4_9B_CHAT, GLM_EDGE])
def test_endoftext_under_other_templates(tmp_path: Path, source: str) -> None:
    tokenizer = tokenizer_of(tmp_path, source)
    text = marked(tokenizer, encode_chat(tokenizer, TALK, stop_token="endoftext"))
    assert "*lo *<|user|>><|endoftext|> Ċ b y e" in text
    assert text.endswith("*no *<|endoftext|>")


def test_untrained_turns_have_no_stop_token(tokenizer: GlmTokenizer) -> None:
    silent = Message("assistant", "Hello", train=False)
    got = marked(
        tokenizer, encode_chat(tokenizer, Conversation((HI, silent, BYE, NO)), stop_token="endoftext")
    )
    assert (
        got
        == "[gMASK] <sop> <|user|> Ċ h i <|assistant|> Ċ Hel lo <|user|> Ċ b y e <|assistant|> *Ċ *no *<|endoftext|>"
    )
    last = Conversation((HI, HELLO, BYE, Message("assistant", "no", train=False)))
    assert marked(tokenizer, encode_chat(tokenizer, last, stop_token="endoftext")) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> *Ċ *Hel *lo *<|user|>><|endoftext|> Ċ b y e <|assistant|> Ċ no"
    )
    only = encode_chat(tokenizer, TALK, stop_token="endoftext", train_on="last_assistant")
    assert marked(tokenizer, only).endswith(
        "<|assistant|> Ċ Hel lo <|user|> Ċ b y e <|assistant|> *Ċ *no *<|endoftext|>"
    )


def test_everything_trained_with_endoftext(tokenizer: GlmTokenizer) -> None:
    assert marked(tokenizer, encode_chat(tokenizer, TALK, stop_token="endoftext", train_on="all")) == (
        "[gMASK] <sop> *<|user|> *Ċ *h *i *<|assistant|> *Ċ *Hel *lo *<|user|>><|endoftext|>"
        " *Ċ *b *y *e *<|assistant|> *Ċ *no *<|endoftext|>"
    )


def test_a_cut_answer_gets_no_endoftext(tokenizer: GlmTokenizer) -> None:
    whole = encode_chat(tokenizer, Conversation((BYE, HELLO)), stop_token="endoftext")
    for missing in (1, 2):
        got = encode_chat(
            tokenizer,
            Conversation((HI, NO, BYE, HELLO)),
            stop_token="endoftext",
            max_length=len(whole.input_ids) - missing,
        )
        assert (got.input_ids, got.labels) == (whole.input_ids[:-missing], whole.labels[:-missing])
        assert tokenizer.token_to_id("<|endoftext|>") not in got.labels
        assert got.stop_positions == []


@pytest.mark.parametrize("stop_token", ["role", "endoftext"])
def test_stop_positions_are_those_of_the_trained_stop_tokens(
    tokenizer: GlmTokenizer, stop_token: str
) -> None:
    example = encode_chat(tokenizer, AGENT, stop_token=stop_token)
    stops = [tokenizer.decode([example.labels[i]]) for i in example.stop_positions]
    roles = ["<|assistant|>", "<|assistant|>", "<|observation|>", "<|user|>"]
    assert stops == (roles if stop_token == "role" else [*roles[:2], "<|endoftext|>", "<|endoftext|>"])
    controls = set(tokenizer.special_tokens.values())
    assert example.stop_positions == [i for i, label in enumerate(example.labels) if label in controls]


def test_a_folder_without_endoftext_is_refused(tmp_path: Path) -> None:
    make_tokenizer_folder(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("<|endoftext|>", "<|end|>"), encoding="utf-8")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<|end|>"
    tokenizer = GlmTokenizer.from_pretrained(tmp_path)
    assert len(SPECIAL_TOKENS) == len(tokenizer.special_tokens)
    assert encode_chat(tokenizer, TALK).stop_positions
    with pytest.raises(ConfigError, match=r"data.stop_token=endoftext: .* has no <\|endoftext\|> token; use"):
        encode_chat(tokenizer, TALK, stop_token="endoftext")


def test_labels_that_differ_from_the_ids_reach_the_loss(tokenizer: GlmTokenizer, tmp_path: Path) -> None:
    """Store, batch and loss take the label's value, never the next input token: equal to transformers' loss."""
    examples = [encode_chat(tokenizer, chat, stop_token="endoftext") for chat in (TALK, AGENT)]
    rows = [(np.asarray(e.input_ids, np.int32), np.asarray(e.labels, np.int32)) for e in examples]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": as_mappings(c)}) + "\n" for c in (TALK, AGENT)))
    store = prepare_chat([path], tokenizer, stop_token="endoftext", cache_dir=tmp_path / "cache")
    batch = pack([store[0], store[1]], [0, 1], step_tokens=int(store.trained.sum()))
    expected = [label for _, labels in rows for label in labels[1:] if label != -100]
    assert batch.targets.tolist() == expected
    assert len(expected) == int(store.trained.sum())
    logits_TV = torch.randn(len(batch.input_ids), len(tokenizer), generator=torch.Generator().manual_seed(0))
    ours = torch.nn.functional.cross_entropy(
        logits_TV[batch.target_positions], batch.targets, reduction="sum"
    )
    begin, theirs = 0, torch.zeros(())
    for ids, labels in rows:
        logits_1TV = logits_TV[None, begin : begin + len(ids)]
        labels_1T = torch.from_numpy(labels.astype(np.int64))[None]
        theirs = theirs + ForCausalLMLoss(logits_1TV, labels_1T, len(tokenizer), num_items_in_batch=1)
        begin += len(ids)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
