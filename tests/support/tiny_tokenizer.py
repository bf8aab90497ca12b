"""A tiny byte-level BPE tokenizer folder in the shape of GLM-4's: its pre-tokenizer, special tokens and
template."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# In GLM-4's order: the first id is the size of the base vocabulary.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)

BASE_VOCABULARY = 400

# GLM-4's pre-tokenizer (the cl100k family of patterns).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = (
    "Hello, how are you? I am fine, thank you. What is the weather in Beijing today?",
    "The weather in Beijing is sunny, 31 degrees. The answer is yes. No, the answer is no.",
    "你好，你是谁？我是一个人工智能助手。今天北京的天气怎么样？北京今天晴，三十一度。",
    '{"city": "北京", "unit": "celsius"}\n\n{"name": "get_weather", "description": "查询天气"}\n',
    "在调用上述函数时，请使用 Json 格式表示调用的参数。\n# 可用工具\n\n## get_weather\n\n",
)


def make_tokenizer_folder(path: Path, *, template: str | None = None) -> Path:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `path` (made if absent).

    `template` replaces the package's GLM-4-0414 template; an empty string writes none. Returns `path`.
    """
    path.mkdir(parents=True, exist_ok=True)
    _train().save(str(path / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (path / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    if template is None:
        template = (files("glm_train.text") / "glm4_chat_template.jinja").read_text(encoding="utf-8")
    if template:
        (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    return path


def _train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == BASE_VOCABULARY
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return tokenizer
