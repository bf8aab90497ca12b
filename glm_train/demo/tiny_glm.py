"""The demo's model folder: a GLM with GLM-4's parts, small enough for two CPU cores, with random weights.

The tokenizer is built as GLM-4's is: byte-level BPE with the same pre-tokenizer, the special tokens in the same
order right after the base vocabulary, and the vocabulary padded so that some ids stay unused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.errors import ConfigError
from glm_train.text.control import GLM_CONTROL_TOKENS

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    from glm_train.model.config import GlmConfig

# The size of the model. Chosen so that it learns the demo's chats by heart in two minutes on two cores.
BASE_VOCABULARY = 4064
HIDDEN, LAYERS, INTERMEDIATE = 192, 4, 576
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 32
CONTEXT = 1024  # tokens; the longest chat of the demo has about 400
# GLM-4-9B starts at 0.02, 1.3 over the square root of its width; by the same rule this width starts near 0.09.
# At 0.02 the tiny model needs twice as many epochs to learn the chats.
INITIALIZER_RANGE = 0.08

PAD_TOKEN = "<|endoftext|>"
STOP_TOKENS = ("<|endoftext|>", "<|user|>", "<|observation|>")
VOCABULARY_MULTIPLE = 64

# GLM-4's pre-tokenizer (that of its published tokenizer.json).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of `BASE_VOCABULARY` tokens learnt from `texts`, then the special tokens.

    Every text can be encoded and comes back the same, whatever its script, since all 256 bytes are tokens.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != BASE_VOCABULARY:
        raise ConfigError(
            f"the demo's text gives {tokenizer.get_vocab_size()} tokens, not {BASE_VOCABULARY}; "
            "the installed data packages hold less text than they should"
        )
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, lstrip=False, rstrip=False)
            for token in GLM_CONTROL_TOKENS
        ]
    )
    return tokenizer


def token_ids() -> dict[str, int]:
    """The id of each special token."""
    return {token: BASE_VOCABULARY + place for place, token in enumerate(GLM_CONTROL_TOKENS)}


def make_config() -> GlmConfig:
    """The configuration of the tiny model."""
    from glm_train.model.config import GlmConfig

    ids = token_ids()
    used = BASE_VOCABULARY + len(GLM_CONTROL_TOKENS)
    return GlmConfig(
        vocab_size=-(-used // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=CONTEXT,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=ids[PAD_TOKEN],
        eos_token_id=[ids[token] for token in STOP_TOKENS],
        architectures=["GlmForCausalLM"],
        dtype="float32",
    )


def parameter_shapes(config: GlmConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter of a GLM (`model_type` glm, with qkv bias, head not tied) under its Hugging Face name."""
    vocabulary, hidden, intermediate = config.vocab_size, config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * HEAD_DIM
    keys = config.num_key_value_heads * HEAD_DIM
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        for name, width in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield f"{prefix}.self_attn.{name}.weight", (width, hidden)
            yield f"{prefix}.self_attn.{name}.bias", (width,)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.gate_up_proj.weight", (2 * intermediate, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, intermediate)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def random_weights(config: GlmConfig, seed: int) -> dict[str, np.ndarray]:
    """Fresh weights as GLM starts: matrices normal with `initializer_range`, norms 1, biases and the pad row 0.

    Each tensor has its own counter-based stream, keyed by seed and name: the bytes depend neither on the order of
    the tensors nor on the number of threads.
    """
    import numpy as np

    weights: dict[str, np.ndarray] = {}
    for name, shape in parameter_shapes(config):
        if name.endswith("norm.weight"):
            weights[name] = np.ones(shape, dtype=np.float32)
        elif name.endswith(".bias"):
            weights[name] = np.zeros(shape, dtype=np.float32)
        else:
            key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "big")
            noise = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
            weights[name] = noise * np.float32(config.initializer_range)
    weights["model.embed_tokens.weight"][config.pad_token_id] = 0.0
    return weights


def write_model(folder: Path, texts: Iterable[str], seed: int) -> int:
    """Write the whole model folder; returns the number of parameters."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    config = make_config()
    config.save_pretrained(folder)
    weights = random_weights(config, seed)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    train_tokenizer(texts).save(str(folder / "tokenizer.json"))
    template = resources.files("glm_train.text") / "glm4_chat_template.jinja"
    (folder / "chat_template.jinja").write_bytes(template.read_bytes())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "generation_config.json", _generation_config(config))
    return sum(array.size for array in weights.values())


def _tokenizer_config() -> dict[str, Any]:
    """What transformers needs to load tokenizer.json as GLM-4's is loaded."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "added_tokens_decoder": {str(i): {"content": token, **flags} for token, i in token_ids().items()},
        "additional_special_tokens": list(GLM_CONTROL_TOKENS),
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
        "eos_token": PAD_TOKEN,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
        "pad_token": PAD_TOKEN,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _generation_config(config: GlmConfig) -> dict[str, Any]:
    """Greedy answers that end at any of the three stop tokens."""
    return {
        "do_sample": False,
        "eos_token_id": config.eos_token_ids,
        "max_new_tokens": 512,
        "pad_token_id": config.pad_token_id,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
