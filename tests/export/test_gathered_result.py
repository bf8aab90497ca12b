"""The result of a model that is shared out over processes is written without ever being whole in one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from support.exported import make_base

CHILD = Path(__file__).parent.parent / "support" / "gathered_results.py"


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path
) -> tuple[dict[str, Any], Path]:
    """What the processes say, and the folder of what they saved."""
    place = tmp_path_factory.mktemp("gathered")
    bases = [
        make_base(place / "plain", tiny_tokenizer_folder),
        make_base(place / "tied", tiny_tokenizer_folder, tie_word_embeddings=True),
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(CHILD), str(place / "out"), *map(str, bases)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), place / "out"


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "tied"])
def test_every_file_is_that_of_the_whole_model(saved: tuple[dict[str, Any], Path], base: str) -> None:
    found, place = saved
    assert found["gathered"][base].keys() == {"full", "classes", "lora", "pissa"}
    for kind, (count, most_held) in found["gathered"][base].items():
        whole, streamed = (place / base / f"{kind}-{way}" for way in ("whole", "streamed"))
        names = sorted(path.name for path in whole.iterdir())
        assert names == sorted(path.name for path in streamed.iterdir())
        assert "tokenizer.json" in names
        for name in names:
            assert (whole / name).read_bytes() == (streamed / name).read_bytes(), (kind, name)
        with safe_open(next(streamed.glob("*model.safetensors")), framework="pt") as handle:
            assert count == len(list(handle.keys()))
        assert most_held <= 1, kind


@pytest.mark.slow
def test_where_the_first_process_fails_all_of_them_say_why(saved: tuple[dict[str, Any], Path]) -> None:
    assert saved[0]["said"] == ["the disk is full"] * 2
