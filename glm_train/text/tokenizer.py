"""`GlmTokenizer`: GLM-4's tokenizer on the `tokenizers` library, with its chat template.

It gives the ids and texts that transformers gives for the same folder, with one difference, on purpose:
spellings of control tokens inside chat messages stay text (see `control.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glm_train.errors import CheckpointError, nearest
from glm_train.text.backend import (
    checked,
    control_tokens,
    load_backend,
    refuse_greedy_control_tokens,
    without_control_tokens,
)
from glm_train.text.batch import TokenBatch, as_list, as_tensors, pad_rows
from glm_train.text.control import remove_sentinel
from glm_train.text.folder import TOKENIZER_PATTERNS, TokenizerFiles, read_tokenizer_files
from glm_train.text.rendering import ChatRenderer, Rendered
from glm_train.text.template import ChatTemplate

_STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")


class GlmTokenizer:
    """Text to token ids and back. Make one with `GlmTokenizer.from_pretrained(folder_or_hub_id)`."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._files = files
        self._backend = load_backend(files)
        self._control = control_tokens(self._backend)
        self._plain = without_control_tokens(self._backend, self._control, files.source)
        self._renderer = ChatRenderer(files, self._control)
        self.padding_side = self._side("padding_side", "left")
        self.truncation_side = self._side("truncation_side", "right")

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, revision: str | None = None) -> GlmTokenizer:
        """Load tokenizer.json, tokenizer_config.json and the chat template of a folder or hub repository.

        A folder with GLM-4's special tokens but no template gets the GLM-4-0414 template. Raises
        `CheckpointError` for a folder that does not exist or lacks tokenizer.json, broken JSON, and a special
        token that the configuration names but tokenizer.json does not hold.
        """
        from glm_train.hub import resolve_folder

        patterns = list(TOKENIZER_PATTERNS)
        folder = resolve_folder(folder_or_hub_id, revision=revision, allow_patterns=patterns)
        return cls(read_tokenizer_files(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files this tokenizer was loaded from, byte for byte, and the built-in template where it
        is used."""
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, content in self._files.content.items():
                (target / name).parent.mkdir(exist_ok=True)
                (target / name).write_bytes(content)
            if not self._files.templates and self.chat_template is not None:
                (target / "chat_template.jinja").write_bytes(self.chat_template.source.encode())
        except OSError as error:
            raise CheckpointError(f"{folder}: the tokenizer cannot be written ({error.strerror})") from error

    def __reduce__(self) -> tuple[type[GlmTokenizer], tuple[TokenizerFiles]]:
        return type(self), (self._files,)

    def __repr__(self) -> str:
        return f"GlmTokenizer({self._files.source!r}, {len(self)} tokens)"

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Size of the base vocabulary, without added tokens (151329 for GLM-4)."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """Size of the vocabulary with the added tokens (151343 for GLM-4)."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def token_ids(self) -> list[int]:
        """The id of every token, in no order."""
        return list(self._backend.get_vocab(with_added_tokens=True).values())

    @property
    def special_tokens(self) -> dict[str, int]:
        """Spelling -> id of every control token, by id."""
        return dict(self._control.ids)

    @property
    def pad_token_id(self) -> int | None:
        return self._named_id("pad_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._named_id("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._named_id("bos_token")

    @property
    def stop_token_ids(self) -> list[int]:
        """The tokens at which a GLM-4 chat model hands over: end of text, the user's turn, a tool's
        result."""
        return [self._control.ids[stop] for stop in _STOPS if stop in self._control.ids]

    def token_to_id(self, token: str) -> int | None:
        """The id of one token as the vocabulary writes it, or None."""
        return self._backend.token_to_id(token)

    def id_to_token(self, id_: int) -> str | None:
        """The vocabulary's spelling of a token (byte-level: "Ġ" is a space), or None."""
        return self._backend.id_to_token(id_)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that changes with anything that may change ids: tokenizer.json, every setting beside it,
        every template."""
        digest = hashlib.sha256()
        parts = {name: data for name, data in self._files.content.items() if name.endswith(".json")}
        parts |= {
            f"template {name}": t.source.encode("utf-8", "surrogatepass")
            for name, t in self._renderer.templates.items()
        }
        for name, data in sorted(parts.items()):
            digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        return digest.hexdigest()

    # Text

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. A control token's spelling becomes that token, as everywhere in this
        ecosystem: for text from outside use `encode_plain`. `add_special_tokens` runs the folder's
        post-processor, if any."""
        return checked(self._backend.encode, text, add_special_tokens=add_special_tokens).ids

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of `text` in which control spellings are ordinary characters; nothing is added."""
        return checked(self._plain.encode, text, add_special_tokens=False).ids

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """The text of `ids` (a list, array or tensor). The last argument has no effect on a byte-level
        vocabulary."""
        ids = as_list(ids)
        return self._backend.decode(
            [ids] if isinstance(ids, int) else ids, skip_special_tokens=skip_special_tokens
        )

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> list[str]:
        """One text for each row of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in as_list(sequences)]

    def __call__(
        self,
        text: str | Sequence[str],
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> TokenBatch:
        """`input_ids` and `attention_mask` of one text or several.

        `padding`: False, True / "longest", or "max_length"; `truncation` cuts rows to `max_length` tokens
        (default: the folder's `model_max_length`); `return_tensors`: None (lists), "pt", "np".
        """
        texts = [text] if isinstance(text, str) else list(text)
        encodings = checked(self._backend.encode_batch, texts, add_special_tokens=False)
        limit = max_length if max_length is not None else self._model_max_length()
        if truncation and limit is not None:
            room = limit - (self._backend.num_special_tokens_to_add(False) if add_special_tokens else 0)
            for encoding in encodings:
                encoding.truncate(max(room, 0), direction=self.truncation_side)
        if add_special_tokens:
            encodings = [self._backend.post_process(encoding) for encoding in encodings]
        rows = [encoding.ids for encoding in encodings]
        single = isinstance(text, str) and return_tensors is None
        return self._batch(rows, padding, limit, return_tensors, single=single)

    # Chats

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The template for plain chats, None where the folder has none and is no GLM-4 chat folder."""
        return self._renderer.templates.get("default")

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: str | None = None,
        return_dict: bool = False,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        **variables: Any,
    ) -> Any:
        """The model's view of a conversation (a list of message mappings), or of several: text or ids.

        Messages and tools reach the template as they are, without keys whose value is None. Control spellings
        in them are encoded as text. Returns a string or ids (several: a list of them), a tensor with
        `return_tensors`, a `TokenBatch` with `return_dict`. Raises `DataError` where the template refuses the
        conversation.
        """
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        chats = list(conversation) if several else [conversation]
        rendered = [
            self.render_chat(chat, tools=tools, add_generation_prompt=add_generation_prompt, **variables)
            for chat in chats
        ]
        if not tokenize:
            return [chat.text for chat in rendered] if several else rendered[0].text
        rows = [self.encode_rendered(chat) for chat in rendered]
        limit = max_length if max_length is not None else self._model_max_length()
        if truncation and limit is not None:
            rows = [row[:limit] if self.truncation_side == "right" else row[-limit:] for row in rows]
        single = not several and return_tensors is None
        batch = self._batch(rows, padding, limit, return_tensors, single=single)
        return batch if return_dict else batch["input_ids"]

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> Rendered:
        """The template's text of one conversation, with the control spellings of its strings protected."""
        return self._renderer.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, variables=variables
        )

    def encode_rendered(self, rendered: Rendered) -> list[int]:
        """Token ids of a rendered conversation: control ids only where the template wrote a control token.

        Ordinary text is encoded in whole stretches between control tokens, as a server that tokenises the
        rendered text does: a line break of the template and one that opens the content become one token.
        Raises `CheckpointError` for control tokens with flags that change the text around them.
        """
        refuse_greedy_control_tokens(self._backend, self._control, self._files.source)
        if rendered.sentinel is None:
            return self.encode(rendered.protected, add_special_tokens=False)
        ids: list[int] = []
        for i, piece in enumerate(self._control.split(rendered.protected)):
            if i % 2:
                ids.append(self._control.ids[piece])
            elif piece:
                ids += self.encode_plain(remove_sentinel(piece, rendered.sentinel))
        return ids

    def _batch(
        self, rows: list[list[int]], padding: bool | str, limit: int | None, kind: str | None, *, single: bool
    ) -> TokenBatch:
        if padding not in (False, True, "longest", "max_length", "do_not_pad"):
            hint = nearest(str(padding), ["longest", "max_length", "do_not_pad"])
            raise ValueError(f"padding is False, True, 'longest' or 'max_length', not {padding!r}.{hint}")
        if padding in (False, "do_not_pad"):
            batch = TokenBatch(input_ids=rows, attention_mask=[[1] * len(row) for row in rows])
        else:
            if self.pad_token_id is None:
                raise CheckpointError(f"{self._files.source}/tokenizer_config.json names no pad_token")
            length = limit if padding == "max_length" else None
            batch = pad_rows(rows, length=length, pad_id=self.pad_token_id, side=self.padding_side)
        if single:
            return TokenBatch({key: value[0] for key, value in batch.items()})
        return batch if kind is None else as_tensors(batch, kind)

    def _model_max_length(self) -> int | None:
        """The folder's limit; a huge number in the file means that there is none."""
        limit = self._files.config.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and limit < 10**9 else None

    def _side(self, key: str, default: str) -> str:
        side = self._files.config.get(key, default)
        if side not in ("left", "right"):
            raise CheckpointError(
                f"{self._files.source}/tokenizer_config.json: {key} is 'left' or 'right', not {side!r}"
            )
        return side

    def _named_id(self, name: str) -> int | None:
        spelling = self._files.named_tokens.get(name)
        return None if spelling is None else self._backend.token_to_id(spelling)
