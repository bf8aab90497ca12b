"""Renders templates, each in a process of its own, and reports what became of each.

    python template_driver.py < [[name, source], ...]   ->   one JSON object

A process may add 512 MB to its address space; what a template takes beyond that is a MemoryError, which the
report names.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

from glm_train.errors import GlmTrainError
from glm_train.text.template import ChatTemplate

MEMORY = 512 * 1024 * 1024


def messages() -> list[dict[str, Any]]:
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "北京", "tools": [{"a": 1}]}]


def address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def render(source: str) -> dict[str, Any]:
    limit = address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    chat = messages()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, processor = time.monotonic(), time.process_time()
    try:
        text = ChatTemplate(source, where="t.jinja").render(chat, tools=[{"name": "f"}])
        refusal = None
    except GlmTrainError as error:
        text, refusal = "", str(error)
    return {
        "refusal": refusal,
        "text": text[:100],
        "wall": time.monotonic() - wall,
        "processor": time.process_time() - processor,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "changed": chat != messages(),
    }


def in_own_process(source: str) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            outcome = render(source)
        except BaseException as error:
            outcome = {"crash": f"{type(error).__name__}: {error}"[:200]}
        os.write(writing, json.dumps(outcome).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        report = file.read()
    _, status = os.waitpid(child, 0)
    return json.loads(report) if report else {"crash": f"the process died with status {status}"}


if __name__ == "__main__":
    ChatTemplate("{{ messages|tojson }}").render(messages())  # imports and first uses are paid for here
    json.dump({name: in_own_process(source) for name, source in json.load(sys.stdin)}, sys.stdout)
