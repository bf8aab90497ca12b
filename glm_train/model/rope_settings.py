"""The rotary settings of a config.json: both layouts read into one, and what can be wrong with them.

transformers 4.x keeps `rope_theta` and `partial_rotary_factor` at the top level and a scaling in `rope_scaling`; 5.x
keeps all of them in `rope_parameters`. They are read as transformers 5 reads them: a `rope_scaling` that says anything
replaces `rope_parameters` whole, and what the dict that counts leaves out is taken from the top level.

    {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}
    -> {"rope_type": "yarn", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "factor": 4.0,
        "original_max_position_embeddings": 32768}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glm_train.errors import nearest
from glm_train.model.config_faults import is_number, is_size

#: What each implemented kind of rotary embedding reads, beside its base and the share of a head that turns.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}
_ELSEWHERE = ("dynamic", "longrope", "llama3", "proportional")
_REQUIRED = ("factor", "original_max_position_embeddings")
_CONTEXT = "original_max_position_embeddings"

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "factor": (lambda value: is_number(value) and value >= 1, "a number of at least 1"),
    _CONTEXT: (lambda value: is_size(value), "a positive whole number"),
    "attention_factor": (lambda value: is_number(value) and value > 0, "a number above 0"),
    # Beyond these bounds the logarithms that place the ramp have no value.
    "beta_fast": (lambda value: is_number(value) and 1e-6 <= value <= 1e6, "a number from 1e-6 to 1e6"),
    "beta_slow": (lambda value: is_number(value) and 1e-6 <= value <= 1e6, "a number from 1e-6 to 1e6"),
    "mscale": (lambda value: is_number(value) and value >= 0, "a number of at least 0"),
    "mscale_all_dim": (lambda value: is_number(value) and value >= 0, "a number of at least 0"),
    "truncate": (lambda value: isinstance(value, bool), "true or false"),
}


def read_rope(
    parameters: dict[str, Any] | None,
    scaling: dict[str, Any] | None,
    theta: float,
    share: float,
    context: int,
    extra: dict[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """The settings as one dict, and its faults, one line each.

    `theta`, `share` (partial_rotary_factor) and `context` (max_position_embeddings) are the top level's. An
    `original_max_position_embeddings` at the top level, among the keys in `extra`, moves into yarn's settings.
    """
    for name, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if value is not None and not isinstance(value, dict):
            defaults = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}
            return defaults, [f"{name}: expected an object, found {value!r}"]
    place, given = ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters or {})
    settings: dict[str, Any] = {"rope_theta": theta, "partial_rotary_factor": share, **given}
    old_name = settings.pop("type", "default")
    kind = settings.setdefault("rope_type", old_name)
    if kind == "yarn":
        if _CONTEXT in extra:  # wins, as in transformers
            settings[_CONTEXT] = extra.pop(_CONTEXT)
        settings.setdefault(_CONTEXT, context)
        if settings.get("factor", 1) is None and is_size(settings[_CONTEXT]) and is_size(context):
            settings["factor"] = context / settings[_CONTEXT]
        if is_number(settings.get("attention_factor")):
            settings["attention_factor"] = float(settings["attention_factor"])
    optional = {key for keys in ROPE_TYPES.values() for key in keys if key not in _REQUIRED}
    optional -= {"truncate"}  # transformers reads null as false there, and nobody means that
    settings = {k: v for k, v in settings.items() if v is not None or k not in optional}
    return settings, _faults(settings, place)


def contradictions(changes: dict[str, Any]) -> list[str]:
    """Faults of changes that name a rotary setting twice: in a file one of the two wins, here neither is meant less."""
    dicts = [name for name in ("rope_scaling", "rope_parameters") if changes.get(name)]
    if len(dicts) == 2:
        return ["rope_scaling and rope_parameters: two names of the same settings; give one of the two"]
    inner = changes[dicts[0]] if dicts and isinstance(changes[dicts[0]], dict) else {}
    return [
        f"{name}: {changes[name]!r}, but {dicts[0]}.{name} is {inner[name]!r}; give one of the two"
        for name in ("rope_theta", "partial_rotary_factor")
        if name in changes and name in inner and changes[name] != inner[name]
    ]


def _faults(settings: dict[str, Any], place: str) -> list[str]:
    kind, expected = settings["rope_type"], ", ".join(ROPE_TYPES)
    if kind in _ELSEWHERE:
        cure = "remove it to train within the original context length"
        return [f"{place}: rope_type {kind!r} is not implemented; expected one of {expected}, or {cure}"]
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        near = nearest(str(kind), ROPE_TYPES)
        return [f"{place}: rope_type {kind!r}: expected one of {expected}.{near}"]
    read, every = ROPE_TYPES[kind], {key for keys in ROPE_TYPES.values() for key in keys}
    common = ("rope_type", "rope_theta", "partial_rotary_factor")
    faults = [f"{place}.{key}: missing; rope_type {kind!r} needs it" for key in _missing(settings, read)]
    for key, value in settings.items():
        if key in read:
            holds, what = _CHECKS[key]
            if not holds(value):
                faults.append(f"{place}.{key}: expected {what}, found {value!r}")
        elif key in every:
            kinds = " or ".join(repr(name) for name, keys in ROPE_TYPES.items() if key in keys)
            cure = f"remove it, or set rope_type to {kinds}"
            faults.append(f"{place}.{key}: has no effect with rope_type {kind!r}; {cure}")
        elif key not in common:
            faults.append(f"{place}.{key}: unknown key.{nearest(str(key), [*read, *common])}")
    return faults or _yarn_faults(settings, place)


def _missing(settings: dict[str, Any], read: tuple[str, ...]) -> list[str]:
    return [key for key in _REQUIRED if key in read and key not in settings]


def _yarn_faults(settings: dict[str, Any], place: str) -> list[str]:
    """Faults between values that are each fine alone."""
    if settings["rope_type"] != "yarn":
        return []
    faults = []
    fast, slow, theta = settings.get("beta_fast", 32), settings.get("beta_slow", 1), settings["rope_theta"]
    if fast < slow:
        faults.append(f"{place}: beta_fast {fast} is below beta_slow {slow}")
    if is_number(theta) and 0 < theta <= 1:
        faults.append(f"rope_theta: expected a number above 1 with rope_type 'yarn', found {theta!r}")
    return faults
