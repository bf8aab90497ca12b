"""The watched process of `refusals.py`: for each folder, a JSON line on stdin, it answers a JSON line on stdout."""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

HANGS_AFTER = 20  # seconds
FORBIDDEN = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
)


def main() -> None:
    max_bytes, outside = int(sys.argv[1]), sys.argv[2]
    from glm_train import GlmForCausalLM

    seen: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            seen.append(f"{event} {arguments!r}"[:200])
        if event == "open" and outside in Path(str(arguments[0])).parts:
            seen.append(f"open {arguments[0]}")

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, _hung)
    for line in sys.stdin:
        print(json.dumps(_load(GlmForCausalLM, json.loads(line), max_bytes, seen)), flush=True)


def _load(model: Any, folder: str, max_bytes: int, seen: list[str]) -> dict[str, Any]:
    seen.clear()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + max_bytes, resource.RLIM_INFINITY))
    before, start = _status("VmRSS"), time.process_time()
    error, message = "", ""
    signal.alarm(HANGS_AFTER)
    try:
        model.from_pretrained(folder)
    except Exception as fault:
        error, message = type(fault).__name__, str(fault)
    signal.alarm(0)
    return {
        "error": error,
        "message": message,
        "seconds": time.process_time() - start,
        "grown_bytes": _status("VmHWM") - before,
        "events": list(seen),
    }


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _hung(*_: object) -> None:
    raise TimeoutError(f"no answer after {HANGS_AFTER} seconds")


if __name__ == "__main__":
    main()
