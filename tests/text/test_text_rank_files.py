"""What is wrong with a tokenizer.model, or with the control tokens that a folder describes beside it, is said
with the line and the cure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from text_ranks import BYTES, make_rank_folder, rank_lines

from glm_train.errors import CheckpointError
from glm_train.text.tiktoken_ranks import read_ranks
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import BASE_VOCABULARY, SPECIAL_TOKENS


def decoder(**changes: str) -> dict[str, Any]:
    """`added_tokens_decoder` in GLM-4's order, with changes by id."""
    tokens = {str(BASE_VOCABULARY + i): token for i, token in enumerate(SPECIAL_TOKENS)} | changes
    return {id_: {"content": token, "special": True} for id_, token in tokens.items()}


def test_further_tokens_follow_glm_s_own(tmp_path: Path) -> None:
    described = decoder(**{"414": "<think>", "415": "</think>"})
    tokenizer = GlmTokenizer.from_pretrained(make_rank_folder(tmp_path, added_tokens_decoder=described))
    assert tokenizer.encode("<think>\n</think><|user|>")[::2] == [414, 415]
    assert len(tokenizer) == 416


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (decoder(**{"407": "<|assistant|>"}), r"'<\|assistant\|>' has two ids, 407 and 408"),
        (
            decoder(**{"407": "<|assistant|>", "408": "<|user|>"}),
            r"'<\|assistant\|>' the id 407, which is '<\|user\|>' in GLM-4's",
        ),
        ({"414": "<|user|>"}, r"'<\|user\|>' the id 414, not 407"),
        (decoder(**{"399": "<mine>"}), "'<mine>' the id 399, which is one of the 400 ranks"),
        (decoder(**{"416": "<think>"}), "describes no token with the id 414, and some with greater ones"),
        (decoder(**{"1000000000000": "<x>"}), "describes no token with the id 414"),
        (decoder(many="<x>"), "the ids of the added tokens are malformed"),
        ([1], "the ids of the added tokens are malformed"),
    ],
)
def test_described_ids_must_agree_with_the_rank_file(tmp_path: Path, described: Any, reason: str) -> None:
    folder = make_rank_folder(tmp_path, added_tokens_decoder=described)
    with pytest.raises(CheckpointError, match=reason):
        GlmTokenizer.from_pretrained(folder)


def test_added_tokens_json_must_agree_too(tmp_path: Path) -> None:
    folder = make_rank_folder(tmp_path)
    (folder / "added_tokens.json").write_text('{"<|user|>": 407}')
    assert GlmTokenizer.from_pretrained(folder).token_to_id("<|user|>") == 407
    (folder / "added_tokens.json").write_text('{"<|user|>": 408}')
    with pytest.raises(CheckpointError, match="two ids, 407 and 408"):
        GlmTokenizer.from_pretrained(folder)


def lines(*last: bytes, drop: int | None = None) -> bytes:
    """A file of the 256 bytes, without one line where `drop` says so, and with further lines."""
    head = [line for i, line in enumerate(rank_lines({t: i for i, t in enumerate(BYTES)}).splitlines())]
    return b"\n".join([*(line for i, line in enumerate(head) if i != drop), *last, b""])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lines(b"YWI= 256", b"a!c= 257"), r"tokenizer\.model:258: 'a!c=' is not base64"),
        (lines(b"YWI 256"), r"tokenizer\.model:257: 'YWI' is not base64"),
        (lines(b"YWI= 256", b"YWM= 256"), r"tokenizer\.model:258: the rank 256 stands already in line 257"),
        (
            lines(b"YWI= 256", b"YWI= 257"),
            r"tokenizer\.model:258: the token b'ab' stands already in line 257",
        ),
        (lines(b"YWI= 257"), r"tokenizer\.model:257: no line has the rank 256, and this one has 257"),
        (lines(b"YWI= 255", drop=255), r"tokenizer\.model:256: no token for the single byte 0xff"),
        (lines(b"YWI= x"), r"tokenizer\.model:257: the rank 'x' is not a number"),
        (lines(b"YWI= -1"), r"tokenizer\.model:257: the rank '-1' is not a number"),
        (lines(b"YWI= " + b"9" * 10_000), r"tokenizer\.model:257: the rank '9999.*' is not a number"),
        (lines(b"YWI="), r"tokenizer\.model:257: expected `base64 rank`, found 'YWI='"),
        (lines(b"YWI= 256 3"), r"tokenizer\.model:257: expected `base64 rank`"),
        (lines(b" 256"), r"tokenizer\.model:257: expected `base64 rank`"),
        (lines(b"YWI= 256"[:5]), r"tokenizer\.model:257: expected"),  # a download that broke off
        (
            b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02" * 99,
            r"model:1: .* SentencePiece model of ChatGLM3",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            r"model:1: a Git LFS pointer .*git lfs pull",
        ),
        (b"", r"tokenizer\.model:1: the file is empty"),
        (b'{"version": "1.0"}', r"tokenizer\.model:1: '\{\"version\":' is not base64"),
        (lines(b"%s 256" % (b"QUFB" * 50_000)), r"model:257: a token of 150,000 bytes"),
    ],
)
def test_broken_rank_files_name_the_line_and_the_cure(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    began = time.process_time()
    with pytest.raises(CheckpointError, match=reason) as caught:
        GlmTokenizer.from_pretrained(tmp_path)
    assert time.process_time() - began < 2
    assert any(word in str(caught.value) for word in ("download", "use the folder", "git lfs"))


def test_windows_line_ends_and_blank_lines_are_read() -> None:
    assert read_ranks(lines(b"", b"YWI= 256", b"").replace(b"\n", b"\r\n"), "x")[b"ab"] == 256


def test_a_rank_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: 1,099,511,627,776 bytes are too many"):
        GlmTokenizer.from_pretrained(tmp_path)


def test_a_control_token_that_is_a_rank_is_refused(tmp_path: Path) -> None:
    ranks = {token: rank for rank, token in enumerate([*BYTES, b"<sop>"])}
    folder = make_rank_folder(tmp_path, ranks, added_tokens_decoder={})
    with pytest.raises(CheckpointError, match="'<sop>' is also an ordinary token of the file"):
        GlmTokenizer.from_pretrained(folder)
