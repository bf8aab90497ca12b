"""How much memory `glm-train prepare` takes for files of different sizes: it should not depend on the size.

    pip install -c constraints.txt -e ".[demo,bench]"
    python benchmarks/preparation_memory.py                        # 200 MB and 2 GB; needs 8 GB of disk
    python benchmarks/preparation_memory.py --megabytes 60 600     # writes benchmarks/results/preparation_memory.md

Each file is JSON Lines of generated chats. The command runs as a user would run it, nothing cached. The memory of its
process and of all its children is read from /proc five times a second: resident sets, and proportional ones, in which
pages that processes share count once (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import processor

WORDS, TURNS = 30_000, (2, 24)
EVERY = 0.2  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where the files are written for as long as it takes")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "preparation_memory.md"
    )
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        run_demo(Path(scratch))
        for megabytes in args.megabytes:
            rows.append(measure(Path(scratch), megabytes, args.workers))
            print(rows[-1], flush=True)
    sizes = " ".join(map(str, args.megabytes))
    text = "\n".join(
        [
            "# Memory of preparing large files of chats",
            "",
            f"`python benchmarks/preparation_memory.py --megabytes {sizes}`: generated chats in JSON Lines,",
            f"`glm-train prepare` with {args.workers} processes beside its own. Largest sums over all of them, in MB;",
            "of proportional sets, in which shared pages count once, also the largest of the last quarter of the time.",
            "",
            f"{processor()}.",
            "",
            "| file, MB | chats | seconds | resident | proportional | its last quarter |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


def run_demo(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "glm_train", "demo", str(folder / "demo")], check=True)


def measure(folder: Path, megabytes: int, workers: int) -> str:
    """Write the file, prepare it, and remove it and its cache."""
    path, cache = folder / f"{megabytes}.jsonl", folder / f"cache{megabytes}"
    chats = write_chats(path, megabytes * 1_000_000)
    settings = {
        "model.path": folder / "demo" / "tiny-glm",
        "data.train": path,
        "data.cache_dir": cache,
        "data.workers": workers,
        "data.validation_fraction": "null",
        "data.max_length": 2048,
    }
    command = [sys.executable, "-m", "glm_train", "prepare", "chat_smoke"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, *(f"{key}={value}" for key, value in settings.items())], stdout=subprocess.DEVNULL
    )
    samples = []
    while process.poll() is None:
        samples.append(memory_of(process.pid))
        time.sleep(EVERY)
    seconds = time.perf_counter() - began
    path.unlink()
    if process.returncode:
        raise SystemExit(f"glm-train prepare ended with {process.returncode}")
    late = samples[len(samples) * 3 // 4 :]
    numbers = [max(s[0] for s in samples), max(s[1] for s in samples), max(s[1] for s in late)]
    return (
        " | ".join([f"| {megabytes:,}", f"{chats:,}", f"{seconds:,.0f}", *(f"{n:,.0f}" for n in numbers)])
        + " |"
    )


def write_chats(path: Path, size: int) -> int:
    """Chats of random words, of which few are common, and some Chinese; the same at every run."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(1, 10))) for _ in range(WORDS)]
    words += [chr(draw.randint(0x4E00, 0x9FA0)) for _ in range(WORDS // 10)]
    often = [1 / (rank + 10) for rank in range(len(words))]
    pool = [" ".join(draw.choices(words, often, k=draw.randint(3, 60))) for _ in range(20_000)]
    written = chats = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            turns = 2 * draw.randint(TURNS[0] // 2, TURNS[1] // 2)
            messages = [
                {"role": ("user", "assistant")[i % 2], "content": f"{draw.choice(words)} {draw.choice(pool)}"}
                for i in range(turns)
            ]
            line = json.dumps({"messages": messages}, ensure_ascii=False)
            written += len(line.encode()) + 1
            chats += 1
            file.write(line + "\n")
    return chats


def memory_of(pid: int) -> tuple[float, float]:
    """Resident and proportional sets of a process and all below it, in MB."""
    resident = proportional = 0
    for one in [pid, *children_of(pid)]:
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
        resident += kilobytes["Rss"]
        proportional += kilobytes["Pss"]
    return resident / 1024, proportional / 1024


def children_of(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [below for child in found for below in (child, *children_of(child))]


if __name__ == "__main__":
    main()
