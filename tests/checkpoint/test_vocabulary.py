"""A tokenizer of another model is refused before anything is trained with it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from glm_train import GlmConfig, GlmTokenizer
from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.errors import CheckpointError


@dataclass
class Tokenizer:
    """Ordinary tokens 0..base-1 and control tokens of any ids."""

    base: int
    special_tokens: dict[str, int]

    def __len__(self) -> int:
        return self.base + len(self.special_tokens)

    @property
    def token_ids(self) -> list[int]:
        return [*range(self.base), *self.special_tokens.values()]

    def id_to_token(self, id_: int, /) -> str | None:
        return f"word{id_}" if id_ < self.base else {v: k for k, v in self.special_tokens.items()}.get(id_)


STOPS = {"<|endoftext|>": 10, "<|user|>": 11, "<|observation|>": 12}


def config(**changes: object) -> GlmConfig:
    return GlmConfig(**{"vocab_size": 16, "pad_token_id": 10, "eos_token_id": [10, 11, 12], **changes})


def test_a_padded_vocabulary_is_fine() -> None:
    check_vocabulary(config(), Tokenizer(10, STOPS))
    check_vocabulary(config(vocab_size=13, eos_token_id=12, pad_token_id=None), Tokenizer(10, STOPS))


def test_a_huge_vocabulary_takes_no_time() -> None:
    check_vocabulary(config(vocab_size=10**12), Tokenizer(10, {**STOPS, "<far>": 10**11}))


@pytest.mark.parametrize(
    ("changes", "base", "special", "fault"),
    [
        (
            {"vocab_size": 13},
            10,
            {**STOPS, "<new>": 13},
            "1 of the tokenizer's 14 tokens have ids of 13 or more",
        ),
        (
            {"vocab_size": 13},
            10,
            {**STOPS, "<far>": 99},
            "1 of the tokenizer's 14 tokens have ids of 13 or more",
        ),
        ({"pad_token_id": 15}, 10, STOPS, "pad_token_id 15 is not a token"),
        ({"eos_token_id": [10, 14]}, 10, STOPS, "eos_token_id 14 is no token"),
        ({"eos_token_id": [10, 3]}, 10, STOPS, "eos_token_id 3 is the ordinary token 'word3'"),
    ],
)
def test_faults_carry_the_numbers(changes: dict, base: int, special: dict, fault: str) -> None:
    with pytest.raises(CheckpointError, match=fault) as caught:
        check_vocabulary(config(**changes), Tokenizer(base, special))
    assert "do not belong together" in str(caught.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(CheckpointError) as caught:
        check_vocabulary(config(pad_token_id=15, eos_token_id=[14]), Tokenizer(20, {}))
    assert len(str(caught.value).splitlines()) == 4


def test_with_the_real_tokenizer(tiny_tokenizer_folder) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.stop_token_ids}
    check_vocabulary(config(vocab_size=len(tokenizer), **ids), tokenizer)
    with pytest.raises(CheckpointError, match="have ids of"):
        check_vocabulary(config(vocab_size=len(tokenizer) - 1, pad_token_id=0, eos_token_id=[0]), tokenizer)
