"""The tokenizer files of a model folder, read once and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from glm_train.errors import CheckpointError
from glm_train.hub import TEMPLATE_FOLDER

# The rank file of the older ChatGLM layout; tokenizer.json, where there is one, is used in its place.
RANK_FILE = "tokenizer.model"
TOKENIZER_FILES = (
    "tokenizer.json",
    RANK_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
TOKENIZER_PATTERNS = (*TOKENIZER_FILES, f"{TEMPLATE_FOLDER}/*.jinja")
# The names under which a template sees a tokenizer's special tokens, in the order that transformers gives
# them.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What the code of the older layout calls them where its configuration does not.
_RANK_FILE_NAMES = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
# GLM-4's is 2.6 MB.
_MOST_BYTES = 64 * 1024 * 1024
_MOST_RANK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class TokenizerFiles:
    """The bytes of the files, so that a copy saved later equals what was loaded, and where they came from."""

    source: str
    content: Mapping[str, bytes] = field(repr=False)

    @property
    def vocabulary_file(self) -> str:
        """The file that the ids come from."""
        return "tokenizer.json" if "tokenizer.json" in self.content else RANK_FILE

    @cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json, completed from special_tokens_map.json where it says nothing of added
        tokens."""
        config = self._json("tokenizer_config.json")
        if "added_tokens_decoder" not in config:
            config |= self._json("special_tokens_map.json")
        return config

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """`eos_token`, `pad_token`, ... -> spelling, for those that the folder names."""
        usual = _RANK_FILE_NAMES if self.vocabulary_file == RANK_FILE else {}
        found = {name: self.config.get(name) for name in NAMED_TOKENS}
        found |= {name: spelling for name, spelling in usual.items() if found[name] is None}
        return {name: self._spelling(name, token) for name, token in found.items() if token is not None}

    @cached_property
    def declared_specials(self) -> dict[str, str]:
        """Spelling -> the configuration key that declares it a special token."""
        declared = {spelling: name for name, spelling in self.named_tokens.items()}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            tokens = self.config.get(key)
            tokens = [] if tokens is None else tokens
            if not isinstance(tokens, list | dict):
                raise CheckpointError(
                    f"{self.source}/tokenizer_config.json: {key} must be a list or an object of tokens,"
                    f" found {tokens!r}"
                )
            for token in tokens.values() if isinstance(tokens, dict) else tokens:
                declared.setdefault(self._spelling(key, token), key)
        return declared

    @cached_property
    def described_ids(self) -> dict[str, int]:
        """Spelling -> id of the added tokens, from `added_tokens_decoder` and added_tokens.json."""
        described = self.config.get("added_tokens_decoder") or {}
        ids: dict[str, int] = {}
        try:
            pairs = [
                (self._spelling("added_tokens_decoder", token), int(id_)) for id_, token in described.items()
            ]
            for spelling, id_ in (*pairs, *self._json("added_tokens.json").items()):
                if type(id_) is not int:
                    raise ValueError(f"{spelling!r} has the id {id_!r}")
                if ids.setdefault(spelling, id_) != id_:
                    raise ValueError(f"{spelling!r} has two ids, {ids[spelling]} and {id_}")
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{self.source}: the ids of the added tokens are malformed ({error})"
            ) from None
        return ids

    @cached_property
    def templates(self) -> dict[str, str]:
        """Chat templates by name: the single one is `default`. Template files win over tokenizer_config.json
        as a whole, as in transformers."""
        files = {self._template_name(file): file for file in self.content if file.endswith(".jinja")}
        if files:
            return {name: self._text(file) for name, file in files.items()}
        found = self.config.get("chat_template")
        if found is None:
            return {}
        entries = [{"name": "default", "template": found}] if isinstance(found, str) else found
        try:
            templates = {entry["name"]: entry["template"] for entry in entries}
            if all(isinstance(part, str) for pair in templates.items() for part in pair):
                return templates
        except (TypeError, KeyError):
            pass
        raise CheckpointError(
            f"{self.source}/tokenizer_config.json: chat_template must be a string or a list of"
            ' {"name": ..., "template": ...}'
        )

    def template_file(self, name: str) -> str:
        """The file that template `name` stands in, for messages."""
        files = (file for file in self.content if file.endswith(".jinja"))
        return next((file for file in files if self._template_name(file) == name), "tokenizer_config.json")

    @staticmethod
    def _template_name(file: str) -> str:
        return "default" if file == "chat_template.jinja" else Path(file).stem

    def _text(self, name: str) -> str:
        try:
            return self.content[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.source}/{name} is not UTF-8 text ({error})") from None

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self.content:
            return {}
        try:
            value = json.loads(self._text(name))
        except json.JSONDecodeError as error:
            raise CheckpointError(
                f"{self.source}/{name}:{error.lineno}: broken JSON ({error.msg}); download the file again"
            ) from None
        except RecursionError:
            raise CheckpointError(
                f"{self.source}/{name}: nested too deeply; download the file again"
            ) from None
        except ValueError as error:  # an integer of thousands of digits
            raise CheckpointError(f"{self.source}/{name}: {error}; download the file again") from None
        if not isinstance(value, dict):
            raise CheckpointError(
                f"{self.source}/{name}: expected a JSON object, found {type(value).__name__}"
            )
        return value

    def _spelling(self, key: str, token: Any) -> str:
        """A token is written as a string, or as an object with its flags (`AddedToken`)."""
        spelling = token.get("content") if isinstance(token, dict) else token
        if not isinstance(spelling, str):
            raise CheckpointError(
                f"{self.source}/tokenizer_config.json: {key} must name a token, found {token!r}"
            )
        return spelling


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the tokenizer files that `folder` holds. `CheckpointError` where it is no folder or lacks
    tokenizer.json."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    content: dict[str, bytes] = {}
    named = sorted(path.name for path in (folder / TEMPLATE_FOLDER).glob("*.jinja"))
    for name in (*TOKENIZER_FILES, *(f"{TEMPLATE_FOLDER}/{file}" for file in named)):
        path = folder / name
        if path.is_file():
            try:
                if name == RANK_FILE and path.stat().st_size > _MOST_RANK_BYTES:
                    raise CheckpointError(
                        f"{path}: {path.stat().st_size:,} bytes are too many for a vocabulary (GLM-4's has"
                        " 2.6 MB); download the file again"
                    )
                if path.stat().st_size > _MOST_BYTES:
                    raise CheckpointError(
                        f"{path}: {path.stat().st_size:,} bytes are too many for a tokenizer's file (GLM-4's largest"
                        " has 20 MB); download the file again"
                    )
                content[name] = path.read_bytes()
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if "tokenizer.json" not in content and RANK_FILE not in content:
        raise CheckpointError(
            f"{folder} has no tokenizer.json or {RANK_FILE}; download the model again with its tokenizer"
        )
    return TokenizerFiles(source=str(folder), content=content)
