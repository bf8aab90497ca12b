"""adapter_base.json: what an adapter remembers of its base, beside PEFT's two files, which PEFT does not read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from glm_train.adapters.config_file import read_json_object
from glm_train.errors import CheckpointError

BASE_NAME = "adapter_base.json"
_FORMAT = 1
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEAD_SETTINGS = ("num_labels", "id2label", "label2id", "problem_type", "classifier_dropout", "bidirectional")
_CHANGES = (*_HEAD_SETTINGS, "rope_theta")  # what a run may change in the base's config


@dataclass(frozen=True)
class AdapterBase:
    """The model that an adapter changes.

    Arguments:
        name: where the base was loaded from, a folder or hub id. It is what the run used, and may have moved.
        fingerprint: of the base's decoder, see `base.py`.
        head_fingerprint: of a language model's own head; None for an adapter that knows nothing of one.
        architecture: the class that was trained, such as `GlmForTokenClassification`.
        config_changes: what `from_pretrained` has to change in the base's configuration, such as the labels.
    """

    name: str
    fingerprint: str
    architecture: str
    config_changes: dict[str, Any] = field(default_factory=dict)
    head_fingerprint: str | None = None

    def fits(self, decoder: str, head: str | None) -> bool:
        """Whether a model with these fingerprints is the base."""
        return self.fingerprint == decoder and self.head_fingerprint in (None, head)


def write_base(base: AdapterBase) -> str:
    values: dict[str, Any] = {
        "format": _FORMAT,
        "base_model": base.name,
        "fingerprint": base.fingerprint,
        "architecture": base.architecture,
        "config_changes": base.config_changes,
    }
    if base.head_fingerprint is not None:
        values["head_fingerprint"] = base.head_fingerprint
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_adapter_base(folder: str | Path) -> AdapterBase | None:
    """What the folder remembers of its base; None for an adapter that PEFT saved. Raises CheckpointError.

    `config_changes` keep what a run may change only; their values are checked where a config is made of them.
    """
    path = Path(folder) / BASE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    values = read_json_object(path)
    if values.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer version of glm-train; update it to read this adapter"
        )
    name, print_, kind = (values.get(key) for key in ("base_model", "fingerprint", "architecture"))
    changes, head = values.get("config_changes"), values.get("head_fingerprint")
    sound = isinstance(name, str) and len(name) <= 4096 and isinstance(kind, str) and len(kind) <= 100
    if (
        not sound
        or not isinstance(print_, str)
        or not _FINGERPRINT.fullmatch(print_)
        or not (head is None or (isinstance(head, str) and _FINGERPRINT.fullmatch(head)))
        or type(changes) is not dict
    ):
        raise CheckpointError(
            f"{path}: damaged: expected base_model, fingerprint, architecture, config_changes"
        )
    kept = {key: value for key, value in changes.items() if key in _CHANGES}
    for key in ("id2label",):
        if isinstance(kept.get(key), dict):  # JSON has no whole numbers as keys
            kept[key] = {int(k) if k.isdecimal() else k: v for k, v in kept[key].items()}
    return AdapterBase(str(name), print_, str(kind), kept, head)


def head_settings(model: nn.Module) -> dict[str, Any]:
    """The settings of a classification model's config that its base does not have."""
    if not hasattr(model, "score"):
        return {}
    found = {key: getattr(model.config, key, None) for key in _HEAD_SETTINGS}
    return {key: value for key, value in found.items() if value is not None}
