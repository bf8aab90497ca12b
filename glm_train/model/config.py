"""`GlmConfig`: the shape of a GLM-4 model, read from and written to Hugging Face's config.json.

Both layouts of the rotary settings are read (see `rope_settings`), and a save writes both: transformers 4.x reads
`rope_theta`, `partial_rotary_factor` and `rope_scaling`, transformers 5 reads `rope_parameters`.
"""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

from glm_train.errors import CheckpointError, ConfigError, nearest
from glm_train.model import chatglm_config
from glm_train.model.config_faults import config_faults, dtype_name, read_direction
from glm_train.model.config_file import CONFIG_NAME, is_kept, read_config_file
from glm_train.model.labels import DEFAULT_LABELS, read_labels
from glm_train.model.presets import preset_values
from glm_train.model.rope_settings import contradictions, read_rope

# What a save says only where it is not this.
_DEFAULTS = {
    "problem_type": None,
    "classifier_dropout": None,
    "token_classification_bias": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}
_STOP_IDS = (151329, 151336, 151338)


class GlmConfig:
    """The configuration of a GLM model, with the arguments and defaults of the Hugging Face documentation.

    `model_type` is `glm` (GLM-4-9B, GLM-Edge) or `glm4` (GLM-4-0414, GLM-Z1: two more norms a layer).
    `partial_rotary_factor` is the share of each head that rotary embedding turns; `rope_scaling` and
    `rope_parameters` extend the context (`linear`, `yarn`), in the form of transformers 4 and 5.
    `num_labels`, `id2label` and `label2id` name a classification head's labels; any one of them will do.
    `bidirectional` lets every token see every other one; `is_causal=False` is transformers' way to say it.
    Keys this class does not know are kept in `extra` and survive a save.

    Raises `ConfigError`, listing every fault at once.
    """

    def __init__(
        self,
        /,  # config.json may have a key of this name
        vocab_size: int = 151552,
        hidden_size: int = 4096,
        intermediate_size: int = 13696,
        num_hidden_layers: int = 40,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 2,
        head_dim: int | None = 128,
        hidden_act: str = "silu",
        attention_dropout: float = 0.0,
        max_position_embeddings: int = 131072,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1.5625e-07,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        rope_theta: float = 10000.0,
        pad_token_id: int | None = 151329,
        eos_token_id: int | list[int] | None = [151329, 151336, 151338],  # noqa: B006 # as documented; copied
        bos_token_id: int | None = None,
        attention_bias: bool = True,
        **others: Any,  # model_type, rope_scaling, num_labels, ...: see `_read_others`
    ) -> None:
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim: int = head_dim  # type: ignore[assignment]  # None until the end of this constructor
        self.hidden_act, self.attention_dropout = hidden_act, attention_dropout
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range, self.rms_norm_eps = initializer_range, rms_norm_eps
        self.use_cache, self.tie_word_embeddings = use_cache, tie_word_embeddings
        self.rope_theta, self.attention_bias = rope_theta, attention_bias
        self.pad_token_id, self.bos_token_id = pad_token_id, bos_token_id
        self.eos_token_id = list(_STOP_IDS) if eos_token_id is None else copy.deepcopy(eos_token_id)
        _refuse(self._read_others(**others))
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads

    def _read_others(
        self,
        /,
        *,
        model_type: str = "glm",
        architectures: list[str] | None = None,
        dtype: str | None = None,
        partial_rotary_factor: float = 0.5,
        rope_parameters: dict[str, Any] | None = None,
        rope_scaling: dict[str, Any] | None = None,
        num_labels: int | None = None,
        id2label: dict[int, str] | None = None,
        label2id: dict[str, int] | None = None,
        problem_type: str | None = None,
        classifier_dropout: float | None = None,
        token_classification_bias: bool = True,
        bidirectional: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **extra: Any,
    ) -> list[str]:
        """Set what the documentation's signature leaves to its `**kwargs`. Returns the faults of all values."""
        extra = copy.deepcopy({k: v for k, v in extra.items() if is_kept(k, v)})
        self.model_type, self.architectures = model_type, copy.deepcopy(architectures)
        # transformers 4.x calls it `torch_dtype`
        dtypes = {"dtype": dtype_name(dtype), "torch_dtype": dtype_name(extra.pop("torch_dtype", None))}
        self.dtype = dtypes["dtype"] if dtypes["dtype"] is not None else dtypes["torch_dtype"]
        top = (self.rope_theta, partial_rotary_factor, self.max_position_embeddings)
        self._rope, rope_faults = read_rope(rope_parameters, rope_scaling, *top, extra)
        self.rope_theta = self._rope.pop("rope_theta")
        self.partial_rotary_factor: float = self._rope.pop("partial_rotary_factor")
        self._labels, faults = read_labels(num_labels, id2label, label2id)
        self.problem_type, self.classifier_dropout = problem_type, classifier_dropout
        self.token_classification_bias = token_classification_bias
        self.bidirectional, more = read_direction(bidirectional, extra)
        self.output_attentions, self.output_hidden_states = output_attentions, output_hidden_states
        self.return_dict, self.extra = return_dict, extra
        return config_faults(self, dtypes, [*rope_faults, *faults, *more])

    @property
    def rotary_dim(self) -> int:
        """How many of a head's `head_dim` channels are rotated: the first ones."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def sandwich_norms(self) -> bool:
        """True for GLM-4-0414 (`glm4`): attention and MLP outputs are normalised before they are added."""
        return self.model_type == "glm4"

    @property
    def eos_token_ids(self) -> list[int]:
        """The stop ids as a list, whatever form the file has them in."""
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id or [])

    @property
    def rope_type(self) -> str:
        """`default`, `linear` or `yarn`."""
        return self._rope["rope_type"]

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """The rotary settings in transformers 5's form. A copy: change them with `with_changes`."""
        shares = {"rope_theta": self.rope_theta, "partial_rotary_factor": self.partial_rotary_factor}
        return {**self._rope, **shares}

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """The scaling in transformers 4's form; None for `default`. A copy."""
        return None if self.rope_type == "default" else dict(self._rope)

    @property
    def num_labels(self) -> int:
        """How many labels a classification head has. Setting another number names them anew, LABEL_0 and so on."""
        return len(self._labels)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        if value != len(self._labels):
            self._set_labels(value, None, None)

    @property
    def id2label(self) -> dict[int, str]:
        """The labels' names by number. Setting it sets `num_labels` and `label2id` too."""
        return self._labels

    @id2label.setter
    def id2label(self, value: dict[int, str]) -> None:
        self._set_labels(None, value, None)

    @property
    def label2id(self) -> dict[str, int]:
        """The labels' numbers by name: the inverse of `id2label`. A copy; setting it sets the other two."""
        return {name: index for index, name in self._labels.items()}

    @label2id.setter
    def label2id(self, value: dict[str, int]) -> None:
        self._set_labels(None, None, value)

    def _set_labels(self, *values: Any) -> None:
        labels, faults = read_labels(*values)
        _refuse(faults)
        self._labels = labels

    @property
    def head_dropout(self) -> float:
        """The dropout before a token classification head, from the keys that transformers asks, in its order."""
        for value in (self.classifier_dropout, self.extra.get("hidden_dropout")):
            if value is not None:
                return float(value)
        return 0.1

    @classmethod
    def preset(cls, name: str) -> GlmConfig:
        """The configuration of a released checkpoint, such as `GLM-4-9B-0414`; see `presets.PRESETS`."""
        return cls(**preset_values(name))

    @classmethod
    def from_dict(cls, values: dict[str, Any], folder: Path | None = None) -> GlmConfig:
        """The configuration in a config.json's dict. Unknown keys are kept; the original release's layout
        (`model_type: chatglm`) is translated. `folder` is where its weights lie, which tell GLM-4-0414 apart."""
        if values.get("model_type") == chatglm_config.MODEL_TYPE:
            values = chatglm_config.to_hugging_face(values, folder)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: the documented keys, both forms of the rotary settings, and `extra`. Labels and
        other keys of a head are there only where they are not transformers' defaults."""
        values = {**self.extra, "model_type": self.model_type, "architectures": self.architectures}
        values |= {name: getattr(self, name) for name in _DOCUMENTED}
        values |= {k: getattr(self, k) for k, default in _DEFAULTS.items() if getattr(self, k) != default}
        if self.bidirectional:
            values |= {"bidirectional": True, "is_causal": False}  # the second is what transformers 5 reads
        if self._labels != DEFAULT_LABELS:
            values |= {"id2label": self._labels, "label2id": self.label2id}
        if self.dtype is not None:
            values |= {"dtype": self.dtype, "torch_dtype": self.dtype}
        values["partial_rotary_factor"] = self.partial_rotary_factor
        if self.rope_scaling is not None:
            values["rope_scaling"] = self.rope_scaling
        return copy.deepcopy({**values, "rope_parameters": self.rope_parameters})

    def with_changes(self, **changes: Any) -> GlmConfig:
        """A checked copy with some values changed; it shares no list or dict with this one.

        Rotary settings that a change leaves out keep their value: `rope_theta=5e6` leaves a scaling as it is,
        `rope_scaling={...}` leaves the base as it is, and `rope_scaling=None` takes the scaling away.
        Another `num_labels` names the labels anew. Raises `ConfigError`, also for a name that is not known.
        """
        known = [*_DOCUMENTED, *_OTHERS, *self.extra]
        unknown = [name for name in changes if name not in known]
        faults = [f"{name}: not a key of GlmConfig.{nearest(name, known)}" for name in unknown]
        _refuse(faults + contradictions(changes))
        values = self.to_dict()
        del values["rope_parameters"]
        for group in _TOGETHER:
            if any(name in changes for name in group):
                values = {name: value for name, value in values.items() if name not in group}
        if changes.get("num_labels") == self.num_labels and not {"id2label", "label2id"} & changes.keys():
            values["id2label"] = self._labels
        return GlmConfig.from_dict(copy.deepcopy({**values, **changes}))

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, *, revision: str | None = None, **changes: Any
    ) -> GlmConfig:
        """Read `config.json` of a local folder or of a model on the hub; `changes` are those of `with_changes`.

        Raises `CheckpointError` when there is none, or when it does not describe a GLM model, and `ConfigError`
        for changes that cannot be made.
        """
        path, values = read_config_file(folder_or_hub_id, revision)
        try:
            config = cls.from_dict(values, path.parent)
        except ConfigError as error:
            raise CheckpointError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None
        except RecursionError:
            raise CheckpointError(f"{path}: objects are nested too deeply") from None
        return config.with_changes(**changes) if changes else config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made where missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        (Path(folder) / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GlmConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"GlmConfig({', '.join(f'{k}={v!r}' for k, v in self.to_dict().items())})"


_DOCUMENTED = tuple(inspect.signature(GlmConfig).parameters)[:-1]  # without **others
_OTHERS = (*tuple(inspect.signature(GlmConfig._read_others).parameters)[1:-1], "torch_dtype", "is_causal")
# Where one of a group is changed, the present values of the others are not carried over.
_TOGETHER = (
    ("rope_scaling", "rope_parameters", "original_max_position_embeddings"),
    ("num_labels", "id2label", "label2id"),
    ("bidirectional", "is_causal"),
    ("dtype", "torch_dtype"),
)


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ConfigError("\n".join(faults))
