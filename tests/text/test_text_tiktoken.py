"""tokenizer.model gives tiktoken's ids: those of the merge loop over ranks, of the tokenizer.json it was made
for, and of transformers' conversion."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_ranks import BYTES, make_rank_folder, rank_lines, ranks_of, reference_ids
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from glm_train.text.tiktoken_ranks import read_ranks, tokenizer_of_ranks
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import BASE_VOCABULARY, SPECIAL_TOKENS, make_tokenizer_folder

TEXTS = [
    "Hello, how are you? It'S the weather's 1234567th day.",
    "你好，今天北京的天气怎么样？三十一度。",
    "  two\n\n\nbreaks \t and\r\n\r\n  trailing   ",
    "emoji 🙂👩‍👩‍👧 and a rare 𠀀, \x00\x7f\x85\u2028 é é",
    "<|user|>\nhi<|assistant|>[gMASK]",
    "",
]
any_text = st.text(st.characters(blacklist_categories=("Cs", "Cn")), max_size=40)
pieces = st.sampled_from(
    [
        "Hello",
        " weather",
        "北京",
        "天气",
        "\n",
        "\r\n",
        "  ",
        "\t",
        "123",
        "4567",
        "'s",
        "'LL",
        "🙂",
        ",",
        "#",
    ]
)


@pytest.fixture(scope="module")
def ranks(tiny_tokenizer_folder: Path) -> dict[bytes, int]:
    return ranks_of(Tokenizer.from_file(str(tiny_tokenizer_folder / "tokenizer.json")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rank_folder(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_model_s_tokenizer_json(
    tokenizer: GlmTokenizer, tiny_tokenizer_folder: Path, text: str
) -> None:
    expected = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    assert tokenizer.encode(text) == expected.encode(text)
    assert tokenizer.encode_plain(text) == expected.encode_plain(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=400, deadline=None)
@given(text=st.one_of(any_text, st.lists(pieces, max_size=12).map("".join)))
def test_ids_equal_the_merge_loop_on_any_text(
    tokenizer: GlmTokenizer, ranks: dict[bytes, int], text: str
) -> None:
    assert tokenizer.encode_plain(text) == reference_ids(ranks, text)


@st.composite
def odd_ranks(draw: st.DrawFn) -> dict[bytes, int]:
    """Ranks that no training gives: tokens that cannot be merged from others, parts that rank after their
    wholes, and single bytes anywhere among them."""
    letters = draw(st.sampled_from([b"a", b"ab", b"abc"]))
    token = st.lists(st.sampled_from(letters), min_size=2, max_size=8).map(bytes)
    tokens = [*BYTES, *draw(st.lists(token, unique=True, min_size=1, max_size=30))]
    order = draw(st.sampled_from(["as drawn", "by length", "any"]))
    if order == "any":
        random.Random(draw(st.integers(0, 10**6))).shuffle(tokens)
    elif order == "by length":
        tokens.sort(key=len)
    return {token: rank for rank, token in enumerate(tokens)}


@settings(max_examples=150, deadline=None)
@given(
    ranks=odd_ranks(), words=st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=30), min_size=8)
)
def test_ids_equal_the_merge_loop_on_adversarial_ranks(ranks: dict[bytes, int], words: list[str]) -> None:
    backend = tokenizer_of_ranks(ranks)
    for word in words:
        assert backend.encode(word).ids == reference_ids(ranks, word)


def test_the_reference_merges_by_rank_and_leftmost_first() -> None:
    ranks = {token: i for i, token in enumerate([*BYTES, b"bc", b"ab", b"abc", b"aa"])}
    assert reference_ids(ranks, "ab") == [257]
    assert reference_ids(ranks, "abc") == [258]  # the whole word, though it is not the first merge's result
    assert reference_ids(ranks, "abcd") == [258, 100]
    assert reference_ids(ranks, "aaab") == [259, 257]
    assert reference_ids(ranks, "dabcab") == [100, 258, 257]


def test_the_built_tokenizer_is_transformers_own(
    ranks: dict[bytes, int], folder: Path, tokenizer: GlmTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the package tiktoken, which only reads the file there, is not installed."""
    monkeypatch.setattr(TikTokenConverter, "load_tiktoken_bpe", staticmethod(lambda path: dict(ranks)))
    converted = TikTokenConverter(vocab_file="x").converted()
    assert json.loads(tokenizer_of_ranks(ranks).to_str()) == json.loads(converted.to_str())
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    assert len(theirs) == len(tokenizer) == BASE_VOCABULARY + len(SPECIAL_TOKENS)
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text)


def test_a_saved_folder_is_one_that_transformers_reads(
    folder: Path, tokenizer: GlmTokenizer, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "saved")
    again = GlmTokenizer.from_pretrained(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    saved, loaded = tmp_path / "saved" / "tokenizer.model", folder / "tokenizer.model"
    assert saved.read_bytes() == loaded.read_bytes()
    for text in TEXTS:
        assert tokenizer.encode(text) == again.encode(text) == theirs.encode(text)
        assert tokenizer.encode_plain(text) == again.encode_plain(text)
    chat = [{"role": "user", "content": "北京 hi"}]
    expected = theirs.apply_chat_template(chat, return_dict=False)
    assert tokenizer.apply_chat_template(chat) == again.apply_chat_template(chat) == expected
    assert (theirs.pad_token_id, theirs.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert theirs.padding_side == "left"
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    again.save_pretrained(tmp_path / "twice")
    for file in (tmp_path / "saved").iterdir():
        assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_rank_file_alone_has_glm_s_control_tokens_behind_its_last_rank(
    folder: Path, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    more = {**ranks, b"qqq": len(ranks)}  # of any size: nothing is at a fixed id
    (tmp_path / "tokenizer.model").write_bytes(rank_lines(more))
    alone = GlmTokenizer.from_pretrained(tmp_path)
    assert alone.special_tokens == {token: len(more) + i for i, token in enumerate(SPECIAL_TOKENS)}
    assert alone.eos_token == alone.pad_token == "<|endoftext|>"
    assert (alone.pad_token_id, alone.padding_side) == (len(more), "left")
    assert alone.chat_template is not None  # the built-in one
    assert alone(["a", "a,,"], padding=True)["attention_mask"][0] == [0] * (len(alone.encode("a,,")) - 1) + [
        1
    ]
    alone.save_pretrained(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (
        theirs("hi<|user|>", padding="max_length", max_length=9)["input_ids"]
        == alone("hi<|user|>", padding="max_length", max_length=9)["input_ids"]
    )


def test_tokenizer_json_wins_over_tokenizer_model(tmp_path: Path) -> None:
    made = make_tokenizer_folder(tmp_path)
    plain = GlmTokenizer.from_pretrained(made).fingerprint
    (made / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk> SentencePiece")
    assert GlmTokenizer.from_pretrained(made).fingerprint == plain


def test_the_fingerprint_covers_the_rank_file(
    ranks: dict[bytes, int], tokenizer: GlmTokenizer, tmp_path: Path
) -> None:
    same = GlmTokenizer.from_pretrained(make_rank_folder(tmp_path / "a"))
    tokens = list(ranks)
    tokens[-1], tokens[-2] = tokens[-2], tokens[-1]
    other = make_rank_folder(tmp_path / "b", {token: i for i, token in enumerate(tokens)})
    assert same.fingerprint == tokenizer.fingerprint != GlmTokenizer.from_pretrained(other).fingerprint


def test_building_takes_seconds_for_many_ranks() -> None:
    """50 thousand ranks, a third of GLM-4's; those take about two seconds."""
    rng = random.Random(0)
    tokens = dict.fromkeys(BYTES)
    while len(tokens) < 50_000:
        known = list(tokens)
        for _ in range(len(known)):
            tokens.setdefault((rng.choice(known) + rng.choice(known))[:12])
    data = rank_lines({token: rank for rank, token in enumerate([*tokens][:50_000])})
    began = time.process_time()
    assert tokenizer_of_ranks(read_ranks(data, "x")).get_vocab_size() == 50_000
    assert time.process_time() - began < 3
