"""A validation part of the training examples, for runs that bring no file of their own for it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError, DataError


def split_salt(seed: int) -> bytes:
    """What makes the order in which examples are held out another one for each seed."""
    return str(seed).encode()


def split_validation(store: ExampleStore, fraction: float, seed: int) -> tuple[ExampleStore, ExampleStore]:
    """The examples as (training, validation); about `fraction` of them, at least one, for validation.

    Examples with the same tokens go to the same side, so that no validation example was trained on in
    another copy, and all examples of one record stay together. Which side depends on a record's tokens and the seed,
    not on its place in the file. Both sides keep file order. The result is the same on every machine.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
        DataError: fewer than two different examples.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"data.validation_fraction={fraction} must lie between 0 and 1. Use null for none.")
    salt = split_salt(seed)
    copies: dict[bytes, list[int]] = {}
    for record in _records(store):
        digests = [store.digest(index, salt) for index in record]
        same = digests[0] if len(digests) == 1 else blake2b(b"".join(digests), digest_size=16).digest()
        copies.setdefault(same, []).extend(record)
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


def _records(store: ExampleStore) -> Iterator[list[int]]:
    """The examples of each record, which stand one after the other."""
    record: list[int] = []
    for index, part in enumerate(store.parts.tolist()):
        if part == 0 and record:
            yield record
            record = []
        record.append(index)
    if record:
        yield record
