"""Two `tokenizers` objects on one vocabulary: one that knows control tokens, and one that sees only text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer

from glm_train.errors import CheckpointError, DataError, nearest
from glm_train.text.control import GLM_CONTROL_TOKENS, HALF_CHARACTER, ControlTokens
from glm_train.text.folder import RANK_FILE, TokenizerFiles
from glm_train.text.tiktoken_ranks import load_rank_file

_PARTS = {
    "normalizer": ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents"),
    "post_processor": ("ByteLevel", "TemplateProcessing"),
    "decoder": ("ByteLevel", "Fuse", "ByteFallback"),
}
_MOST_TEMPLATE_PIECES = 64


def load_backend(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer of tokenizer.json, or else of tokenizer.model, as transformers would run it."""
    backend = _read_json(files) if files.vocabulary_file != RANK_FILE else load_rank_file(files)
    # Padding and truncation are ours; those that a file may carry would act on every call.
    backend.no_padding()
    backend.no_truncation()
    _add_declared_tokens(backend, files)
    backend.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
    return backend


def _read_json(files: TokenizerFiles) -> Tokenizer:
    place = f"{files.source}/tokenizer.json"
    try:
        backend = Tokenizer.from_str(files.content["tokenizer.json"].decode("utf-8"))
    except Exception as error:  # the library raises the bare class for anything wrong with the file
        raise CheckpointError(f"{place} cannot be loaded ({error}); download the file again") from None
    _refuse_amplifiers(backend, place)
    return backend


def _refuse_amplifiers(backend: Tokenizer, place: str) -> None:
    """Raise `CheckpointError` for parts that can make a page of text out of a word: no GLM tokenizer has them."""
    for part, known in _PARTS.items():
        used = getattr(backend, part)
        for step in _steps(None if used is None else json.loads(used.__getstate__())):
            kind = step.get("type") if isinstance(step, dict) else step
            pieces = (
                sum(len(step.get(key) or []) for key in ("single", "pair")) if isinstance(step, dict) else 0
            )
            if kind not in known or pieces > _MOST_TEMPLATE_PIECES:
                raise CheckpointError(
                    f"{place}: the {part} {kind!r} is not one of a GLM tokenizer"
                    f" ({', '.join(known)}); use the tokenizer of the model's own release"
                )


def _steps(part: Any) -> list[Any]:
    """The parts of a sequence, or the part itself."""
    if part is None:
        return []
    if isinstance(part, dict) and part.get("type") == "Sequence":
        inner = next((v for v in part.values() if isinstance(v, list)), [])
        return [step for item in inner for step in _steps(item)]
    return [part]


def _add_declared_tokens(backend: Tokenizer, files: TokenizerFiles) -> None:
    """Give the tokens that the configuration declares their flags. Each must have its id in tokenizer.json: a
    token added here would take a new id, one that the model has never seen."""
    tokens = _described_tokens(files)
    keys = {token.content: "added_tokens_decoder" for token in tokens} | files.declared_specials
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for spelling, key in keys.items():
        if backend.token_to_id(spelling) is None:
            raise CheckpointError(
                f"{files.source}: {key} names the special token {spelling!r}, which is not in {files.vocabulary_file}."
                f"{nearest(spelling, known)} Take both files from the same model"
            )
    backend.add_tokens([token for token in tokens if repr(token) != repr(known.get(token.content))])
    for spelling in files.declared_specials:
        if spelling not in known:
            backend.add_special_tokens([AddedToken(spelling, special=True, normalized=False)])


def _described_tokens(files: TokenizerFiles) -> list[AddedToken]:
    """The entries of `added_tokens_decoder`: id -> {"content": ..., flags}."""
    described = files.config.get("added_tokens_decoder") or {}
    try:
        return [AddedToken(**flags) for _, flags in sorted(described.items(), key=lambda pair: int(pair[0]))]
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{files.source}/tokenizer_config.json: added_tokens_decoder is malformed ({error})"
        ) from None


def control_tokens(backend: Tokenizer) -> ControlTokens:
    """The special tokens, and GLM-4's own, by id. Other added tokens are words that text may contain."""
    added = backend.get_added_tokens_decoder()
    return ControlTokens(
        {
            token.content: id_
            for id_, token in sorted(added.items())
            if (token.special or token.content in GLM_CONTROL_TOKENS) and len(token.content) > 1
        }
    )


def refuse_greedy_control_tokens(backend: Tokenizer, control: ControlTokens, source: str) -> None:
    """Raise `CheckpointError` where a control token takes the blanks beside it with it, or is one only between
    blanks: a chat would then not hold what was said in it. No GLM-4 release has such a token."""
    for token in backend.get_added_tokens_decoder().values():
        flags = [flag for flag in ("lstrip", "rstrip", "single_word") if getattr(token, flag)]
        if flags and token.content in control.ids:
            raise CheckpointError(
                f"{source}: the control token {token.content!r} has {' and '.join(flags)} set, which would"
                " change the text of chats; set it to false in tokenizer.json and tokenizer_config.json"
            )


def without_control_tokens(backend: Tokenizer, control: ControlTokens, source: str) -> Tokenizer:
    """A second tokenizer, on the same vocabulary, that sees control spellings as ordinary text.

    `encode_special_tokens` would do it on the first one, but is a switch that every other caller would see.
    """
    plain = Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(backend, part) is not None:
            setattr(plain, part, getattr(backend, part))
    added = sorted(backend.get_added_tokens_decoder().items())
    plain.add_tokens(
        [
            AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=token.content in control.ids,
            )
            for _, token in added
        ]
    )
    for id_, token in added:
        if plain.token_to_id(token.content) != id_:
            raise CheckpointError(
                f"{source}/tokenizer.json: the added token {token.content!r} has a gap before its id"
            )
    plain.encode_special_tokens = True
    for spelling, id_ in control.ids.items():
        if id_ in plain.encode(spelling, add_special_tokens=False).ids:
            raise CheckpointError(
                f"{source}/tokenizer.json: the control token {spelling!r} is also an ordinary word of the"
                " vocabulary, so text cannot be told from control tokens"
            )
    return plain


def checked(encode: Callable[..., Any], text: Any, *, add_special_tokens: bool) -> Any:
    """`encode(text)`; the library's "must be str" also means half of a surrogate pair, which is no
    character."""
    try:
        return encode(text, add_special_tokens=add_special_tokens)
    except TypeError as error:
        texts = text if isinstance(text, list) else [text]
        for item in texts:
            if isinstance(item, str) and any("\ud800" <= char <= "\udfff" for char in item):
                raise DataError(f"the text {HALF_CHARACTER}") from None
        raise TypeError(f"a tokenizer takes text, not {[type(item).__name__ for item in texts]}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what the library raises where its Rust code gave up
            raise
        raise DataError(f"the tokenizer gave up on the text: {error}") from None
