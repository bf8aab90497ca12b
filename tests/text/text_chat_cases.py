"""Shared by the chat tests: more templates, marked tokens, spans, and random conversations."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from text_templates import GLM_4_9B_CHAT, GLM_EDGE, GLM_Z1

from glm_train.text.chat import ChatTokens, Conversation, Message
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS, make_tokenizer_folder

# GLM-Edge as it may also be written: no observations, and no names of tools.
EDGE_OF_THREE_ROLES = """{%- for m in messages if m.role in ('system', 'user', 'assistant') -%}
{{- '<|' + m.role + '|>\\n' + m.content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""

# GLM-Z1 with tools and system messages in front, trimming what it writes.
Z1_WITH_TOOLS = """[gMASK]<sop>
{%- if tools -%}{{- '<|system|>\\n# Tools' -}}
    {%- for tool in tools -%}{%- set f = tool.function or tool -%}
        {{- '\\n\\n## ' + f.name + '\\n\\n' + f|tojson(indent=4, ensure_ascii=False) -}}
    {%- endfor -%}
{%- endif -%}
{%- for m in messages if m.role == 'system' -%}{{- '<|system|>\\n' + m.content -}}{%- endfor -%}
{%- for m in messages if m.role != 'system' -%}
    {{- '<|' + m.role + '|>' + (m.metadata or '') + '\\n' + m.content.split('</think>')[-1].strip() -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n<think>' -}}{%- endif -%}"""

# GLM-4-0414 as one revision had it: the generation prompt already writes an answer's line break.
NEWLINE_0414 = """[gMASK]<sop>
{%- for m in messages -%}
    {{- '<|' + m.role + '|>' + (m.metadata or '') + '\\n' + m.content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""

# Reasoning stays until the next question, as in Qwen 3.
REASONING_SINCE_LAST_QUESTION = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages if m.role == 'user' -%}{%- set ns.last = ns.last + 1 -%}{%- endfor -%}
{%- set at = namespace(user=-1) -%}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}{%- set at.user = at.user + 1 -%}{%- endif -%}
    {%- set c = m.content if at.user == ns.last else m.content.split('</think>')[-1] -%}
    {{- '<|' + m.role + '|>' + (m.metadata or '') + '\\n' + c -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

TEMPLATES: dict[str, str | None] = {"0414": None, "9b-chat": GLM_4_9B_CHAT, "edge": GLM_EDGE, "z1": GLM_Z1}
CALLS = ("0414", "9b-chat")  # these write tools and tool calls

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气 <b> & 'quotes'",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "t", "parameters": {}}}


@cache
def _trained_files() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in make_tokenizer_folder(Path(folder)).iterdir()}


def tokenizer_of(folder: Path, template: str | None = None) -> GlmTokenizer:
    """The tiny tokenizer in `folder`, with a template of its own unless it is None."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _trained_files().items():
        (folder / name).write_bytes(content)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return GlmTokenizer.from_pretrained(folder)


def spelling(tokenizer: GlmTokenizer, id_: int) -> str:
    """A token as the vocabulary writes it (`Ċ` a line break, `Ġ` a space), Chinese as it reads."""
    text = tokenizer.decode([id_])
    return str(tokenizer.id_to_token(id_)) if "�" in text else text.replace(" ", "Ġ").replace("\n", "Ċ")


def marked(tokenizer: GlmTokenizer, example: ChatTokens) -> str:
    """The tokens, `*` before the trained ones; `x>y` where y is to be predicted in the place of x."""
    assert len(example.input_ids) == len(example.labels)
    tokens = []
    for id_, label in zip(example.input_ids, example.labels, strict=True):
        token = spelling(tokenizer, id_)
        if label not in (-100, id_):
            token += f">{spelling(tokenizer, label)}"
        tokens.append(token if label == -100 else f"*{token}")
    return " ".join(tokens)


def label_spans(example: ChatTokens) -> list[list[int]]:
    """The stretches of labels. A stop token ends one, even where the next begins at once."""
    stops = set(example.stop_positions)
    found: list[list[int]] = []
    going = False
    for i, label in enumerate(example.labels):
        if label != -100:
            if not going:
                found.append([])
            found[-1].append(label)
        going = label != -100 and i not in stops
    return found


def as_mappings(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages as they are given to transformers."""
    return [
        {"role": m.role, "content": m.content} | ({"metadata": m.metadata} if m.metadata else {})
        for m in conversation.messages
    ]


SAID = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS, "\n", " ", "北京"]), st.text(max_size=5)), max_size=4
).map(lambda parts: "".join(parts) or "x")
ANSWER = SAID.filter(lambda text: bool(text.strip()))
_CALL = st.builds(Message, st.just("assistant"), SAID, st.sampled_from(["f", "get_weather"]), st.booleans())
_RESULT = st.builds(Message, st.just("observation"), SAID)
_CALLS = st.builds(
    lambda calls, results: [*calls, *results],
    st.lists(_CALL, min_size=1, max_size=2),
    st.lists(_RESULT, min_size=1, max_size=2),
)
_USER = st.builds(Message, st.just("user"), SAID)
_TEXT = st.builds(Message, st.just("assistant"), ANSWER, train=st.booleans())


def conversations(*, calls: bool = True, tools: bool = False) -> st.SearchStrategy[Conversation]:
    """Conversations that end with an answer: control spellings, Chinese, white space, tool calls."""
    exchange = st.builds(
        lambda user, calls, answer: [user, *chain(*calls), answer],
        _USER,
        st.lists(_CALLS, max_size=2 if calls else 0),
        _TEXT,
    )
    return st.builds(
        lambda system, exchanges, told: Conversation((*system, *chain(*exchanges)), told),
        st.lists(st.builds(Message, st.just("system"), st.one_of(st.just(""), SAID)), max_size=1),
        st.lists(exchange, min_size=1, max_size=3),
        st.sampled_from([None, (WEATHER,), (WEATHER, TIME)] if tools else [None]),
    )
