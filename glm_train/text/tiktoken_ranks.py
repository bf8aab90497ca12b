"""tokenizer.model of the older ChatGLM layout: byte pair ranks, turned into the tokenizer of tokenizer.json.

Each line is `base64(token) rank`. The rank is the token's id and its place in the order of merges: of two
neighbouring pieces of a word, those whose joint token has the lowest rank are merged first, and a word that
is a token needs no merging.

    rank   token                     the `tokenizers` library wants pairs: every cut of a token into two
    0-255  single bytes              tokens, in the order of the token's rank, then of its parts' ranks
    256    th                        (t, h)
    257    he                        (h, e)
    258    the                       (t, he)  (th, e)

The control tokens are not in the file. They follow the last rank, in GLM-4's order (`GLM_CONTROL_TOKENS`).

Sources: tiktoken (the file and the merging), THUDM/glm-4-9b (the pattern and the control tokens), and
transformers' conversion of such files, whose ids these are.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from glm_train.errors import CheckpointError
from glm_train.text.control import GLM_CONTROL_TOKENS
from glm_train.text.folder import RANK_FILE, TokenizerFiles

# How text is cut into words before any merge: contractions, letters with one mark before them, up to three digits,
# other marks with the line breaks behind them, line breaks, blanks.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Looking for the cuts of a token takes the square of its length. GLM-4's tokens need 2e7 together.
_MOST_WORK = 600_000_000
_DOWNLOAD = "download the file again"


def load_rank_file(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer of a folder that has tokenizer.model alone, with its control tokens. Raises
    `CheckpointError`."""
    place = f"{files.source}/{RANK_FILE}"
    ranks = read_ranks(files.content[RANK_FILE], place)
    backend = tokenizer_of_ranks(ranks)
    specials = _added_tokens(files, len(ranks))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    for offset, token in enumerate(specials):
        if backend.token_to_id(token) != len(ranks) + offset:
            raise CheckpointError(
                f"{place}: the control token {token!r} is also an ordinary token of the file; {_DOWNLOAD}"
            )
    return backend


def files_for_transformers(files: TokenizerFiles, backend: Tokenizer) -> dict[str, bytes]:
    """What a saved folder has beside a copy of the rank file: the same tokenizer as tokenizer.json, and a
    configuration that names it instead of the code that read tokenizer.model."""
    config = {key: value for key, value in files.config.items() if key != "auto_map"}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", **files.named_tokens}
    config.setdefault("padding_side", "left")
    config.setdefault("clean_up_tokenization_spaces", False)
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    return {
        "tokenizer.json": backend.to_str(pretty=True).encode(),
        "tokenizer_config.json": text.encode("utf-8", "surrogatepass"),
    }


def read_ranks(data: bytes, place: str) -> dict[bytes, int]:
    """Token -> rank. `place` names the file in messages.

    Raises `CheckpointError`, with the line, for what is no rank file: base64 that is broken, a token or a
    rank that stands twice, ranks with a gap, a byte without a token.
    """
    _refuse_other_formats(data, place)
    ranks: dict[bytes, int] = {}
    lines: dict[int, int] = {}
    for number, line in _lines(data):
        fields = line.split()
        if len(fields) != 2:
            raise CheckpointError(
                f"{place}:{number}: expected `base64 rank`, found {_shown(line)}; {_DOWNLOAD}"
            )
        token, rank = _token(fields[0], f"{place}:{number}"), _rank(fields[1], f"{place}:{number}")
        if rank in lines:
            raise CheckpointError(
                f"{place}:{number}: the rank {rank} stands already in line {lines[rank]}; {_DOWNLOAD}"
            )
        if token in ranks:
            raise CheckpointError(
                f"{place}:{number}: the token {token!r} stands already in line {lines[ranks[token]]}; {_DOWNLOAD}"
            )
        ranks[token] = rank
        lines[rank] = number
    _check_complete(ranks, lines, place)
    return ranks


def tokenizer_of_ranks(ranks: Mapping[bytes, int]) -> Tokenizer:
    """The tokenizer that gives tiktoken's ids for `ranks`, without control tokens."""
    spell = _byte_spelling()
    # latin-1 gives each byte a character, which translate replaces by its printable spelling.
    spelled = {rank: token.decode("latin-1").translate(spell) for token, rank in ranks.items()}
    merges = [(spelled[left], spelled[right]) for left, right in _cuts(ranks)]
    vocabulary = {text: rank for rank, text in spelled.items()}
    backend = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _cuts(ranks: Mapping[bytes, int]) -> Iterator[tuple[int, int]]:
    """The ranks of the two parts, for every cut of every token, by the token's rank."""
    rank_of = ranks.get
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = []
        for i in range(1, len(token)):
            left = rank_of(token[:i])
            if left is not None:
                right = rank_of(token[i:])
                if right is not None:
                    cuts.append((left, right))
        cuts.sort()
        yield from cuts


def _byte_spelling() -> dict[int, int]:
    """Byte -> the character that stands for it in byte-level vocabularies: itself where it is printable, else
    the next character from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {byte: 0x100 + i for i, byte in enumerate(others)}


def _added_tokens(files: TokenizerFiles, base: int) -> list[str]:
    """The control tokens by id, from `base` on: GLM-4's, then what the folder describes beyond them."""
    described = files.described_ids
    tokens = dict(enumerate(GLM_CONTROL_TOKENS, base))
    for spelling, id_ in described.items():
        expected = tokens.get(id_, spelling)
        known = base + GLM_CONTROL_TOKENS.index(spelling) if spelling in GLM_CONTROL_TOKENS else id_
        if id_ < base or expected != spelling or known != id_:
            usual = f"which is {expected!r} in GLM-4's order" if expected != spelling else f"not {known}"
            usual = f"which is one of the {base} ranks" if id_ < base else usual
            raise CheckpointError(
                f"{files.source}: added_tokens_decoder gives {spelling!r} the id {id_}, {usual}; take"
                f" {RANK_FILE} and tokenizer_config.json from the same model"
            )
        tokens[id_] = spelling
    for id_ in range(base, base + len(tokens)):
        if id_ not in tokens:
            raise CheckpointError(
                f"{files.source}: added_tokens_decoder describes no token with the id {id_}, and some with"
                " greater ones; use the model's tokenizer.json"
            )
    return [tokens[id_] for id_ in sorted(tokens)]


def _refuse_other_formats(data: bytes, place: str) -> None:
    start = data[:1000]
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{place}:1: a Git LFS pointer in place of the file; fetch it with `git lfs pull`"
        )
    if b"\0" in start or b"<unk>" in start:
        raise CheckpointError(
            f"{place}:1: not text but a binary file, such as the SentencePiece model of ChatGLM3 and older; use"
            " the folder of a GLM-4 model"
        )
    if not data.strip():
        raise CheckpointError(f"{place}:1: the file is empty; {_DOWNLOAD}")


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            yield number, line


def _token(field: bytes, place: str) -> bytes:
    try:
        token = binascii.a2b_base64(field, strict_mode=True)
    except binascii.Error as error:
        raise CheckpointError(f"{place}: {_shown(field)} is not base64 ({error}); {_DOWNLOAD}") from None
    if not token:
        raise CheckpointError(f"{place}: an empty token; {_DOWNLOAD}")
    return token


def _rank(field: bytes, place: str) -> int:
    if not field.isdigit() or len(field) > 9:
        raise CheckpointError(f"{place}: the rank {_shown(field)} is not a number; {_DOWNLOAD}")
    return int(field)


def _check_complete(ranks: Mapping[bytes, int], lines: Mapping[int, int], place: str) -> None:
    for expected, rank in enumerate(sorted(lines)):
        if rank != expected:
            raise CheckpointError(
                f"{place}:{lines[rank]}: no line has the rank {expected}, and this one has {rank}; {_DOWNLOAD}"
            )
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise CheckpointError(
                f"{place}:{max(lines.values())}: no token for the single byte 0x{byte:02x}, so some text could"
                f" not be encoded; {_DOWNLOAD}"
            )
    if sum(len(token) ** 2 for token in ranks) > _MOST_WORK:
        line, longest = max((len(token), lines[rank]) for token, rank in ranks.items())[::-1]
        raise CheckpointError(
            f"{place}:{line}: a token of {longest:,} bytes, and too many such for a vocabulary; {_DOWNLOAD}"
        )


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("latin-1") + ("..." if len(text) > 40 else ""))
