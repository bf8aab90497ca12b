"""How fast and in how much memory a model folder loads, beside plain reading of the same files.

    python benchmarks/loading.py                       # 1.5 GB of random weights in a temporary folder
    python benchmarks/loading.py --gigabytes 0.3 --rounds 3

Each measurement runs in a fresh process; the two sides take turns, several rounds. What is compared:

- new memory: `from_pretrained`, and reading the files into new memory, which is the least that a loader does;
- memory that is there: `load_weights` into a model, and reading the files into buffers of their size. The kernel
  hands out no pages here, so the loader's own cost shows.

The files are in the page cache, but for the last row, before which the kernel is asked to drop them. Reading is one
`readinto` a file. A first round, which is not timed, measures memory: what the process owns (RssAnon), sampled every
millisecond during the load, less what it owned before. Mapped pages of the files are the kernel's, which takes them
back when it needs to. With the files in the cache both sides need the CPU alone, so CPU time tells the same as the
clock, less disturbed by other processes.
Writes benchmarks/results/loading_cpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import processor

SHAPE = {
    "vocab_size": 32768,
    "hidden_size": 2048,
    "intermediate_size": 6912,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "pad_token_id": 0,
    "eos_token_id": [0],
}
LAYER_BYTES, EMBEDDING_BYTES = 103_834_624, 134_217_728  # bf16
Measure = Callable[[Callable[[], object]], dict[str, Any]]
COLD, THERE = "from the disk", "memory there"
# Name, dtype of the files, side and dtype of reading, side and dtype of loading.
PAIRS = [
    ("bf16 files, bf16 model, new memory", "bfloat16", ("read_new", ""), ("from_pretrained", "bfloat16")),
    ("fp32 files, fp32 model, new memory", "float32", ("read_new", ""), ("from_pretrained", "float32")),
    ("fp32 files, bf16 model, new memory", "float32", ("read_new", ""), ("from_pretrained", "bfloat16")),
    ("bf16 files, fp32 model, new memory", "bfloat16", ("read_and_fill", ""), ("from_pretrained", "float32")),
    (f"bf16 files, bf16 model, {THERE}", "bfloat16", ("read_there", ""), ("load_weights", "bfloat16")),
    (f"fp32 files, fp32 model, {THERE}", "float32", ("read_there", ""), ("load_weights", "float32")),
    (f"fp32 files, bf16 model, {THERE}", "float32", ("read_there", ""), ("load_weights", "bfloat16")),
    (f"bf16 files, bf16 model, {COLD}", "bfloat16", ("read_new", ""), ("from_pretrained", "bfloat16")),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gigabytes", type=float, default=1.5, help="of bf16 weights; the fp32 files are twice that"
    )
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads while loading")
    parser.add_argument("--folder", type=Path, help="where the models are made (default: a temporary folder)")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loading_cpu.md")
    args = parser.parse_args()
    if args.side:
        side, folder, dtype, measure = args.side
        print(json.dumps(SIDES[side](Path(folder), dtype, timed if measure == "time" else sampled)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folders = make_folders(Path(scratch), args.gigabytes, args.shards)
        rows = [compare(pair, folders, args.rounds, args.threads) for pair in PAIRS]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(rows, args), encoding="utf-8")
    print(f"wrote {args.output}")


def make_folders(scratch: Path, gigabytes: float, shards: int) -> dict[str, Path]:
    """The same random model in bf16 and fp32 files."""
    import torch

    from glm_train import GlmConfig, GlmForCausalLM

    layers = max(1, round((gigabytes * 1e9 - 2 * EMBEDDING_BYTES) / LAYER_BYTES))
    with torch.device("meta"):
        model = GlmForCausalLM(GlmConfig(**SHAPE, num_hidden_layers=layers)).bfloat16()
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    folders = {}
    for dtype in ("bfloat16", "float32"):
        model.to(getattr(torch, dtype))
        folders[dtype] = scratch / dtype
        size = sum(parameter.nbytes for parameter in model.parameters())
        model.save_pretrained(folders[dtype], max_shard_bytes=size // shards + 2**27)
        print(f"{dtype}: {size / 1e9:.2f} GB in {len(weight_files(folders[dtype]))} files", flush=True)
    return folders


def compare(pair: Any, folders: dict[str, Path], rounds: int, threads: int) -> dict[str, Any]:
    """Both sides of a pair in turn, once for their memory and then `rounds` times for their speed."""
    name, stored, *sides = pair
    results: list[list[dict[str, Any]]] = [[], []]
    for turn in range(rounds + 1):
        for (side, dtype), kept in zip(sides, results, strict=True):
            if COLD in name:
                drop_from_cache(folders[stored])
            kept.append(run(side, folders[stored], dtype, "time" if turn else "memory", threads))
    size = sum(path.stat().st_size for path in weight_files(folders[stored]))
    memory = results[1][0]
    row = {"name": name, "bytes": size, "plain": results[0][1:], "ours": results[1][1:], "memory": memory}
    print(line(row), flush=True)
    return row


def drop_from_cache(folder: Path) -> None:
    for path in weight_files(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(side: str, folder: Path, dtype: str, measure: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, str(folder), dtype, measure]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def read_new(folder: Path, _: str, measured: Measure) -> dict[str, Any]:
    import torch

    buffers = []

    def read() -> None:
        for path in weight_files(folder):
            buffers.append(torch.empty(path.stat().st_size, dtype=torch.uint8))
            read_into(buffers[-1], path)

    return measured(read)


def read_and_fill(folder: Path, _: str, measured: Measure) -> dict[str, Any]:
    """Reading into new memory, and filling as much again."""
    import torch

    buffers = []

    def read() -> None:
        for path in weight_files(folder):
            buffers.append(torch.empty(path.stat().st_size, dtype=torch.uint8))
            read_into(buffers[-1], path)
            buffers.append(torch.empty(path.stat().st_size, dtype=torch.uint8).fill_(1))

    return measured(read)


def read_there(folder: Path, _: str, measured: Measure) -> dict[str, Any]:
    import torch

    files = weight_files(folder)
    buffers = [torch.ones(path.stat().st_size, dtype=torch.uint8) for path in files]

    def read() -> None:
        for path, buffer in zip(files, buffers, strict=True):
            read_into(buffer, path)

    return measured(read)


def read_into(buffer: Any, path: Path) -> None:
    view, at = memoryview(buffer.numpy()), 0
    with path.open("rb", buffering=0) as file:
        while at < len(view):
            at += file.readinto(view[at:])


def from_pretrained(folder: Path, dtype: str, measured: Measure) -> dict[str, Any]:
    import torch

    from glm_train import GlmForCausalLM

    torch.zeros(1).bfloat16()
    kept = []
    result = measured(lambda: kept.append(GlmForCausalLM.from_pretrained(folder, dtype=dtype)))
    parameters = list(kept[0].parameters())
    return result | sizes(parameters)


def load_weights(folder: Path, dtype: str, measured: Measure) -> dict[str, Any]:
    import torch

    from glm_train import GlmForCausalLM
    from glm_train.checkpoint.weights import load_weights as load

    model = GlmForCausalLM.from_pretrained(folder, dtype=dtype, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    return measured(lambda: load(model, folder)) | sizes(list(model.parameters()))


def sizes(parameters: list[Any]) -> dict[str, int]:
    return {"model": sum(p.nbytes for p in parameters), "largest": max(p.nbytes for p in parameters)}


def timed(work: Callable[[], object]) -> dict[str, Any]:
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu_start}


def sampled(work: Callable[[], object]) -> dict[str, Any]:
    """The peak of the memory that the process owns during `work`, above what it owned before."""
    before, peak, done = own_bytes(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], own_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    work()
    done.set()
    sampler.join()
    return {"peak": max(peak[0], own_bytes()) - before}


def own_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


SIDES = {f.__name__: f for f in (read_new, read_and_fill, read_there, from_pretrained, load_weights)}


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    plain, ours = row["plain"], row["ours"]
    speeds = [row["bytes"] / 1e9 / statistics.median(r["seconds"] for r in side) for side in (plain, ours)]
    ratios = {
        measure: statistics.median(a[measure] / b[measure] for a, b in zip(plain, ours, strict=True))
        for measure in ("seconds", "cpu")
    }
    best = min(r["seconds"] for r in plain) / min(r["seconds"] for r in ours)
    memory = row["memory"]
    above = memory["peak"] - (0 if THERE in row["name"] else memory["model"])
    return (
        f"| {row['name']} | {speeds[0]:.2f} | {speeds[1]:.2f} | {ratios['seconds']:.0%} | {best:.0%} | "
        f"{ratios['cpu']:.0%} | {max(above, 0) / 2**20:,.0f} | {memory['largest'] / 2**20:,.0f} |"
    )


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    import torch

    files = ", ".join(f"{size / 1e9:.2f} GB" for size in sorted({row["bytes"] for row in rows}))
    return (
        "# Loading a model folder\n\n"
        f"`python benchmarks/loading.py` on {os.cpu_count()} cores, {args.threads} thread(s), {processor()}; torch "
        f"{torch.__version__}, Python {platform.python_version()}. Files of {files}, {args.shards} shards or so; "
        f"{args.rounds} rounds in which the sides take turns, each in a fresh process. GB of file a second, medians; "
        "ratio of loading's speed to reading's: round by round (median), of the fastest rounds, and of CPU time. "
        "Memory in MiB: the peak above the model (above what was there, where it was there), beside the largest "
        "tensor, which is what loading may take.\n\n"
        "| | reading GB/s | loading GB/s | ratio | fastest | CPU | above | one tensor |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n" + "".join(f"{line(row)}\n" for row in rows) + "\n"
        "An fp32 model takes twice the memory of its bf16 files; there, reading fills as much new memory again.\n"
    )


if __name__ == "__main__":
    main()
