"""`GlmTokenizer`: GLM-4's tokenizer on the `tokenizers` library, with its chat template.

It gives the ids and texts that transformers gives for the same folder, with one difference, on purpose:
spellings of control tokens inside chat messages stay text (see `control.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glm_train.errors import CheckpointError
from glm_train.text.backend import (
    checked,
    control_tokens,
    load_backend,
    refuse_greedy_control_tokens,
    without_control_tokens,
)
from glm_train.text.batch import (
    SIDES,
    TokenBatch,
    as_list,
    as_tensors,
    known_side,
    make_batch,
    pads,
    positive,
    truncates,
)
from glm_train.text.control import remove_sentinel
from glm_train.text.folder import RANK_FILE, TOKENIZER_PATTERNS, TokenizerFiles, read_tokenizer_files
from glm_train.text.rendering import ChatRenderer, Rendered
from glm_train.text.template import ChatTemplate
from glm_train.text.tiktoken_ranks import files_for_transformers
from glm_train.text.vocabulary import Vocabulary


class GlmTokenizer(Vocabulary):
    """Text to token ids and back. Make one with `GlmTokenizer.from_pretrained(folder_or_hub_id)`."""

    def __init__(self, files: TokenizerFiles) -> None:
        backend = load_backend(files)
        super().__init__(files, backend, control_tokens(backend))
        self._plain = without_control_tokens(backend, self._control, files.source)
        self._renderer = ChatRenderer(files, self._control)
        self._padding_side = self._configured_side("padding_side", "left")
        self._truncation_side = self._configured_side("truncation_side", "right")

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, revision: str | None = None) -> GlmTokenizer:
        """Load tokenizer.json, tokenizer_config.json and the chat template of a folder or hub repository.

        A folder of the older ChatGLM layout has tokenizer.model (tiktoken's ranks) in place of
        tokenizer.json; its ids are the same. A folder with GLM-4's special tokens but no template gets the
        GLM-4-0414 template. Raises `CheckpointError` for a folder that does not exist or has neither file,
        for broken ones, and for a special token that the configuration names but the vocabulary does not
        hold.
        """
        from glm_train.hub import resolve_folder

        patterns = list(TOKENIZER_PATTERNS)
        folder = resolve_folder(folder_or_hub_id, revision=revision, allow_patterns=patterns)
        return cls(read_tokenizer_files(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files this tokenizer was loaded from, byte for byte, and the built-in template where it
        is used. One that came from tokenizer.model also writes the tokenizer.json that it became, and a
        tokenizer_config.json without the code that the older layout names."""
        target = Path(folder)
        content = dict(self._files.content)
        if self._files.vocabulary_file == RANK_FILE:
            content |= files_for_transformers(self._files, self._backend)
        if not self._files.templates and self.chat_template is not None:
            content["chat_template.jinja"] = self.chat_template.source.encode()
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, data in content.items():
                (target / name).parent.mkdir(exist_ok=True)
                (target / name).write_bytes(data)
        except OSError as error:
            raise CheckpointError(f"{folder}: the tokenizer cannot be written ({error.strerror})") from error

    def __reduce__(self) -> tuple[Any, ...]:
        sides = {"_padding_side": self._padding_side, "_truncation_side": self._truncation_side}
        return type(self), (self._files,), sides

    def __repr__(self) -> str:
        return f"GlmTokenizer({self._files.source!r}, {len(self)} tokens)"

    @property
    def padding_side(self) -> str:
        """Where padding goes: `left` (GLM's, as generation needs it) or `right`. May be set."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        self._padding_side = known_side(side, "padding_side")

    @property
    def truncation_side(self) -> str:
        """Which end truncation cuts off: `right` or `left`. May be set."""
        return self._truncation_side

    @truncation_side.setter
    def truncation_side(self, side: str) -> None:
        self._truncation_side = known_side(side, "truncation_side")

    # Text

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        """Token ids of `text`: a list, or a tensor (1, T) with `return_tensors`. A control token's spelling
        becomes that token, as everywhere in this ecosystem: for text from outside use `encode_plain`.
        `add_special_tokens` runs the folder's post-processor, if any."""
        ids = checked(self._backend.encode, text, add_special_tokens=add_special_tokens).ids
        return (
            ids
            if return_tensors is None
            else as_tensors(TokenBatch(input_ids=[ids]), return_tensors).input_ids
        )

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
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
    ) -> TokenBatch:
        """`input_ids` and `attention_mask` of one text or several.

        `padding`: False, True / "longest", or "max_length"; `truncation` cuts rows to `max_length` tokens
        (default: the folder's `model_max_length`); `return_tensors`: None (lists), "pt", "np";
        `padding_side` stands in for the attribute in this call. Raises `ValueError` for other values.
        """
        if isinstance(text, Mapping) or not isinstance(text, Iterable):
            raise TypeError(f"a tokenizer takes a text or a list of texts, not {type(text).__name__}")
        texts = [text] if isinstance(text, str) else list(text)
        encodings = checked(self._backend.encode_batch, texts, add_special_tokens=False)
        limit = positive("max_length", max_length) or self._limit()
        if truncates(truncation) and limit is not None:
            multiple = positive("pad_to_multiple_of", pad_to_multiple_of)
            if pads(padding) and multiple is not None and limit % multiple:
                raise ValueError(f"max_length={limit} is no multiple of {pad_to_multiple_of=}")
            room = limit - (self._backend.num_special_tokens_to_add(False) if add_special_tokens else 0)
            for encoding in encodings:
                encoding.truncate(max(room, 0), direction=self.truncation_side)
        if add_special_tokens:
            encodings = [self._backend.post_process(encoding) for encoding in encodings]
        rows = [encoding.ids for encoding in encodings]
        return self._batch(
            rows,
            padding=padding,
            limit=limit,
            multiple=pad_to_multiple_of,
            side=padding_side,
            kind=return_tensors,
            single=isinstance(text, str),
        )

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
        truncation: bool | str = False,
        max_length: int | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> Any:
        """The model's view of a conversation (a list of message mappings), or of several: text or ids.

        Messages and tools reach the template as they are, without keys whose value is None. Control spellings
        in them are encoded as text. `continue_final_message` ends the text inside the last message, for a
        model to go on with it. `chat_template` picks a template of the folder by name, or gives the source of
        another. Returns a string or ids (several: a list of them), a tensor with `return_tensors`, a
        `TokenBatch` with `return_dict`. Raises `DataError` where the template refuses the conversation.
        """
        several = bool(conversation) and isinstance(conversation, Sequence) and _is_list(conversation[0])
        chats = list(conversation) if several else [conversation]
        options = {"add_generation_prompt": add_generation_prompt, **variables}
        rendered = [
            self.render_chat(chat, tools=tools, continue_final_message=continue_final_message, **options)
            for chat in chats
        ]
        if not tokenize:
            return [chat.text for chat in rendered] if several else rendered[0].text
        rows = [self.encode_rendered(chat) for chat in rendered]
        limit = positive("max_length", max_length) or self._limit()
        if truncates(truncation) and limit is not None:
            rows = [row[:limit] if self.truncation_side == "right" else row[-limit:] for row in rows]
        batch = self._batch(rows, padding=padding, limit=limit, kind=return_tensors, single=not several)
        return batch if return_dict else batch["input_ids"]

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **variables: Any,
    ) -> Rendered:
        """The template's text of one conversation, with the control spellings of its strings protected."""
        return self._renderer.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template=chat_template,
            variables=variables,
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

    def _batch(self, rows: list[list[int]], **options: Any) -> TokenBatch:
        if pads(options["padding"]) and self.pad_token_id is None:
            raise CheckpointError(f"{self._files.source}/tokenizer_config.json names no pad_token")
        side = options.pop("side", None)
        side = self.padding_side if side is None else known_side(side, "padding_side")
        return make_batch(rows, pad_id=self.pad_token_id or 0, side=side, **options)

    def _template_sources(self) -> dict[str, str]:
        return {name: template.source for name, template in self._renderer.templates.items()}

    def _configured_side(self, key: str, default: str) -> str:
        side = self._files.config.get(key, default)
        if side not in SIDES:
            raise CheckpointError(
                f"{self._files.source}/tokenizer_config.json: {key} is 'left' or 'right', not {side!r}"
            )
        return side


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
