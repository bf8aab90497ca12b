"""The tokens of one tokenizer: ids, spellings, and the roles that the folder gives to some of them.

The names are those of transformers' tokenizers, with the same results for the same folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer

from glm_train.text.batch import as_list
from glm_train.text.control import ControlTokens
from glm_train.text.folder import TokenizerFiles

_STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")
# What transformers says for "no limit".
_NO_LIMIT = int(1e30)


class Vocabulary:
    """What a tokenizer knows of its tokens; `GlmTokenizer` adds text and chats."""

    def __init__(self, files: TokenizerFiles, backend: Tokenizer, control: ControlTokens) -> None:
        self._files = files
        self._backend = backend
        self._control = control

    # Sizes and single tokens

    @property
    def vocab_size(self) -> int:
        """Size of the base vocabulary, without added tokens (151329 for GLM-4)."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """Size of the vocabulary with the added tokens (151343 for GLM-4)."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """Every token as the vocabulary writes it -> its id."""
        return self._backend.get_vocab(with_added_tokens=True)

    @property
    def token_ids(self) -> list[int]:
        """The id of every token, in no order."""
        return list(self.get_vocab().values())

    def token_to_id(self, token: str) -> int | None:
        """The id of one token as the vocabulary writes it, or None."""
        return self._backend.token_to_id(token)

    def id_to_token(self, id_: int) -> str | None:
        """The vocabulary's spelling of a token (byte-level: "Ġ" is a space), or None."""
        return self._backend.id_to_token(id_)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int | None] | None:
        """The id of one token, or of each of several; None for what is no token (GLM-4 has no unknown
        token)."""
        if isinstance(tokens, str):
            return self.token_to_id(tokens)
        return [self.token_to_id(token) for token in tokens]

    def convert_ids_to_tokens(
        self, ids: Any, skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The spelling of one id, or of each of several (a list, array or tensor)."""
        ids = as_list(ids)
        if isinstance(ids, int):
            return self.id_to_token(ids)
        special = set(self._control.ids.values()) if skip_special_tokens else set()
        return [self.id_to_token(id_) for id_ in ids if id_ not in special]

    # Special tokens

    @property
    def special_tokens(self) -> dict[str, int]:
        """Spelling -> id of every control token, by id."""
        return dict(self._control.ids)

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens that the configuration names: those with a role first."""
        return list(self._files.declared_specials)

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`, in their order."""
        ids = self.get_vocab()
        return [ids[token] for token in self.all_special_tokens]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Role -> spelling, for the roles that the folder fills: {"eos_token": "<|endoftext|>", ...}."""
        return dict(self._files.named_tokens)

    @property
    def bos_token(self) -> str | None:
        return self._files.named_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self._files.named_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self._files.named_tokens.get("pad_token")

    @property
    def unk_token(self) -> str | None:
        return self._files.named_tokens.get("unk_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._named_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._named_id("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._named_id("unk_token")

    @property
    def stop_token_ids(self) -> list[int]:
        """The tokens at which a GLM-4 chat model hands over: end of text, the user's turn, a tool's
        result."""
        return [self._control.ids[stop] for stop in _STOPS if stop in self._control.ids]

    # The folder's settings

    @property
    def model_max_length(self) -> int:
        """The most tokens that the folder's model takes; int(1e30) where the folder sets no limit."""
        limit = self._limit()
        return _NO_LIMIT if limit is None else limit

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that changes with anything that may change ids: the vocabulary's file, every setting
        beside it, every template."""
        digest = hashlib.sha256()
        content = self._files.content
        sources = {name for name in content if name.endswith(".json")} | {self._files.vocabulary_file}
        parts = {name: content[name] for name in sources}
        parts |= {
            f"template {name}": source.encode("utf-8", "surrogatepass")
            for name, source in self._template_sources().items()
        }
        for name, data in sorted(parts.items()):
            digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        return digest.hexdigest()

    def _template_sources(self) -> dict[str, str]:
        return self._files.templates

    def _limit(self) -> int | None:
        """The folder's `model_max_length`; a huge number in the file means that there is none."""
        limit = self._files.config.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and 0 < limit < 10**9 else None

    def _named_id(self, name: str) -> int | None:
        spelling = self._files.named_tokens.get(name)
        return None if spelling is None else self._backend.token_to_id(spelling)
