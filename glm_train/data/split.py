"""A validation part of the training examples, for runs that bring no file of their own for it."""

from __future__ import annotations

import numpy as np

from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError, DataError


def split_salt(seed: int) -> bytes:
    """What makes the order in which examples are held out another one for each seed."""
    return str(seed).encode()


def split_validation(store: ExampleStore, fraction: float, seed: int) -> tuple[ExampleStore, ExampleStore]:
    """The examples as (training, validation); about `fraction` of them, at least one, for validation.

    Examples with the same tokens go to the same side, so that no validation example was trained on in
    another copy, and all examples of one record stay together. Which side depends on the tokens of a record's first
    example and the seed, not on its place in the file. Both sides keep file order. The result is the same on every
    machine.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
        DataError: fewer than two different examples.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"data.validation_fraction={fraction} must lie between 0 and 1. Use null for none.")
    salt = split_salt(seed)
    copies: dict[bytes, list[int]] = {}
    digest = b""
    for index, part in enumerate(store.parts.tolist()):
        digest = store.digest(index, salt) if part == 0 or not index else digest
        copies.setdefault(digest, []).append(index)
    if len(copies) < 2:
        raise DataError(
            f"{len(store)} examples, all alike, cannot be split."
            " Add data, or set data.validation_fraction=null."
        )
    wanted = max(1, round(fraction * len(store)))
    validation: list[int] = []
    for digest in sorted(copies)[:-1]:  # at least one group stays for training
        if len(validation) >= wanted:
            break
        validation += copies[digest]
    chosen = np.zeros(len(store), dtype=bool)
    chosen[validation] = True
    return store.select(np.flatnonzero(~chosen)), store.select(np.flatnonzero(chosen))
