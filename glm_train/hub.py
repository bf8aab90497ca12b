"""Where a model lies: a local folder as it is, or a hub id downloaded into the Hugging Face cache."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from glm_train.errors import CheckpointError

# Model folders are flat: JSON, weights, chat templates and the text files of tokenizers. Only named chat
# templates lie in a folder of their own.
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
# Where transformers 5 keeps the templates that are not the default one, each as NAME.jinja.
TEMPLATE_FOLDER = "additional_chat_templates"
# Pickles run code when they are read, so they are not even fetched.
_PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.npy", "*.npz"]
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LOCAL_CURE = "Or download the model elsewhere and give the path of its folder."
MAX_TEXT_BYTES = 4 * 2**20


def resolve_folder(
    folder_or_hub_id: str | Path, *, revision: str | None = None, allow_patterns: list[str] | None = None
) -> Path:
    """The local folder of a model: `folder_or_hub_id` itself where it exists, else its snapshot from the hub.

    A folder wins over a hub id of the same spelling. A download takes the files that `allow_patterns` match
    (default: JSON, safetensors, chat templates, tokenizer text files), from the top level and the folder of
    named chat templates only and never a pickle, into the Hugging Face cache (`HF_HOME`), and only what is
    not there yet. Without a connection the cache alone is used. `revision` is a branch, tag or commit of the
    hub repository.

    Raises `CheckpointError`: no such folder, no such model, no access, no connection, or a `revision` that a
    local folder cannot have.
    """
    name = os.fspath(folder_or_hub_id)
    path = Path(os.path.expanduser(name))  # noqa: PTH111  pathlib's raises for an unknown user's ~name
    try:
        local = bool(name) and path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise CheckpointError(f"{name[:80]!r}... cannot be the name of a folder: {error}") from None
    if local:
        if revision is not None:
            raise CheckpointError(
                f"{name} is a local folder, which has no revision {revision!r}; leave the revision out"
            )
        return path
    if name and path.is_file():
        raise CheckpointError(f"{name} is a file; give the folder that holds config.json ({path.parent})")
    if isinstance(folder_or_hub_id, Path) or _looks_like_a_path(name):
        raise CheckpointError(f"{name!r}: no such folder (current folder: {Path.cwd()})")
    if not _is_hub_id(name):
        raise CheckpointError(
            f"{name!r} is neither an existing folder nor a hub id; a hub id looks like zai-org/GLM-4-9B-0414"
        )
    return _download(name, revision, allow_patterns or MODEL_FILES)


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The text of a small file of a model folder, such as config.json.

    A folder comes from anywhere: the name may stand for a device, a pipe that never ends, or gigabytes.
    Raises FileNotFoundError where there is no such file, for the caller to say what that means; else
    `CheckpointError` naming the file.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        if found.st_size > max_bytes:
            raise CheckpointError(f"{path}: {found.st_size} bytes; at most {max_bytes} are read")
        with path.open("rb") as file:
            return file.read(max_bytes).decode("utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return (
        _HUB_ID.fullmatch(name) is not None
        and not any(part.endswith((".", "-", ".git")) for part in parts)
        and "--" not in name
        and ".." not in name
    )


def _download(hub_id: str, revision: str | None, allow_patterns: list[str]) -> Path:
    """Run `snapshot_download`, and say each of its failures in one sentence with the cure."""
    from huggingface_hub import constants, errors, snapshot_download

    where = hub_id if revision is None else f"{hub_id} at revision {revision}"
    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=allow_patterns, ignore_patterns=_never()
            )
        )
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{where}: the hub gives this model only to accounts that accepted its terms. Accept them on its "
            f"page, then set HF_TOKEN to an access token of that account. {_LOCAL_CURE}"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{hub_id}: the hub has no revision {revision!r} of this model") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{where}: no local folder of this name, and no such model on the hub. Check the spelling; "
            f"if the model is private, set HF_TOKEN to an access token that may read it."
        ) from None
    except errors.HFValidationError as error:
        raise CheckpointError(f"{where}: not a hub id: {error}") from None
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise CheckpointError(
                f"{where}: not a local folder, not complete in the Hugging Face cache, and HF_HUB_OFFLINE "
                f"forbids downloads. Unset HF_HUB_OFFLINE. {_LOCAL_CURE}"
            ) from None
        raise CheckpointError(
            f"{where}: not a local folder, not complete in the Hugging Face cache, and the hub cannot be "
            f"reached ({_reason(error)}). Check the connection. {_LOCAL_CURE}"
        ) from None
    except errors.HfHubHTTPError as error:
        raise CheckpointError(
            f"{where}: the hub refused the download: {_reason(error)}. {_LOCAL_CURE}"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{where}: the download failed: {_reason(error)}. Run again to go on where it stopped."
        ) from None


def _never() -> list[str]:
    """Patterns of what is not fetched: pickles, and every subfolder (onnx/, original/ hold copies of the
    weights) but that of the named templates.

    A pattern cannot say "but", so each says where a folder's name first differs from the one wanted.
    """
    starts = [(TEMPLATE_FOLDER[:i], letter) for i, letter in enumerate(TEMPLATE_FOLDER)]
    shorter = [f"{start}/*" for start, _ in starts if start]
    other = [f"{start}[!{letter}]*/*" for start, letter in starts]
    longer = [f"{TEMPLATE_FOLDER}[!/]*/*", f"{TEMPLATE_FOLDER}/*/*"]
    return [*_PICKLES, *shorter, *other, *longer]


def _reason(error: BaseException) -> str:
    """The first line of the error at the bottom of the chain, which names the real fault."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
