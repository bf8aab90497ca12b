"""The rules that keep the code where a reader looks for it, read from the source without running it.

A file imports from its own folder and from lower floors; heavy and foreign packages come in at named places only; files
and functions stay short. Each fault is reported as `file:line: what`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "glm_train"

# Folders by their name, files of the package's top by theirs. `__init__.py` at the top is the public face: it may name
# any floor, and does so lazily.
FLOORS = {
    **dict.fromkeys(("errors.py", "dist.py", "bar.py", "hub.py"), 0),
    "model": 1,
    "text": 2,
    "losses": 3,
    "metrics": 3,
    "tagging": 3,
    "checkpoint": 4,
    "adapters": 5,
    "data": 6,
    "parallel": 7,
    "optim": 8,
    "tasks": 9,
    "callbacks": 10,
    "config": 11,
    **dict.fromkeys(("build.py", "build_data.py", "build_model.py", "build_task.py", "trained_model.py"), 12),
    "launch.py": 12,
    **dict.fromkeys((f"run{p}.py" for p in ("", "_folder", "_plan", "_result", "_saved", "_summary")), 12),
    **dict.fromkeys(("convert.py", "export.py", "generate.py", "demo"), 12),
    "preview": 13,
    "predict": 13,
    "cli": 14,
    "__main__.py": 15,
}
HOMES = {
    "lightning": ("data/datamodule.py", "parallel/strategy.py", "tasks/", "callbacks/", "build.py", "run.py"),
    "hydra": ("config/", "cli/"),
    "omegaconf": ("config/", "cli/"),
    "peft": ("adapters/",),
    "transformers": (),
    "wandb": ("callbacks/", "build.py"),
    "datasets": ("data/hub_data.py",),
    **dict.fromkeys(("seqeval", "sklearn", "scipy"), ("metrics/",)),
    "sacrebleu": ("predict/",),
    "bitsandbytes": ("adapters/",),
}
HEAVY = {"torch", "lightning", "peft", "wandb", "transformers", "datasets", "seqeval", "sklearn", "scipy"}
LIGHT = ("__init__.py", "errors.py", "hub.py", "cli/", "config/", "text/", "data/chat", "data/plan.py")
LIGHT += ("data/records.py", "preview/", "bar.py")
LONGEST_FILE, LONGEST_FUNCTION = 299, 59  # lines


@dataclass(frozen=True)
class Import:
    line: int
    module: str  # the full dotted name; for `from a import b` it is a.b, for b may be a module
    at_import_time: bool  # not inside a function, and not for type checkers only


def sources(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def imports(path: Path, root: Path) -> Iterator[Import]:
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node, delayed in _statements(ast.parse(path.read_text(encoding="utf-8")), delayed=False):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(node.lineno, name.name, not delayed)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            for name in node.names:
                yield Import(node.lineno, f"{base}.{name.name}", not delayed)


def _statements(node: ast.AST, *, delayed: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = delayed or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inside
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield statement, True
                yield from _statements(statement, delayed=True)
            for statement in child.orelse:
                yield statement, inside
                yield from _statements(statement, delayed=inside)
        else:
            yield from _statements(child, delayed=inside)


def floor_faults(root: Path) -> list[str]:
    """Imports from a higher floor or from another folder of the same one, and files on no floor."""
    faults = []
    for path in sources(root, PACKAGE):
        place = path.relative_to(root / PACKAGE)
        if place.as_posix() == "__init__.py":
            continue
        here = place.parts[0]
        if here not in FLOORS:
            faults.append(f"{path.relative_to(root)}:1: {here} has no floor in the layout")
            continue
        for found in imports(path, root):
            there = _home(found.module, root)
            if there is None or there == here or there == "__init__.py":
                continue
            if there not in FLOORS:
                faults.append(f"{path.relative_to(root)}:{found.line}: {there} has no floor in the layout")
            elif FLOORS[there] > FLOORS[here] or (
                FLOORS[there] == FLOORS[here] and not _neighbours(here, there)
            ):
                floors = f"{here} is on floor {FLOORS[here]}, {there} on {FLOORS[there]}"
                faults.append(f"{path.relative_to(root)}:{found.line}: imports {found.module}; {floors}")
    return faults


def _home(module: str, root: Path) -> str | None:
    """The folder or top-level file of the package that `module` is in; None for other packages."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    if len(parts) == 1:
        return "__init__.py"
    folder = (root / PACKAGE / parts[1]).is_dir()
    if folder or (root / PACKAGE / f"{parts[1]}.py").exists():
        return parts[1] if folder else f"{parts[1]}.py"
    return "__init__.py"  # a name that the package itself defines


def _neighbours(here: str, there: str) -> bool:
    """Whether two places of one floor are files of one folder: the package's top."""
    return here.endswith(".py") and there.endswith(".py")


def foreign_faults(root: Path) -> list[str]:
    """Third-party packages imported outside their homes, also lazily."""
    faults = []
    for path in sources(root, PACKAGE):
        place = path.relative_to(root / PACKAGE).as_posix()
        for found in imports(path, root):
            homes = HOMES.get(found.module.split(".")[0])
            if homes is not None and not place.startswith(homes):
                allowed = ", ".join(homes) or "tests and benchmarks"
                faults.append(
                    f"{path.relative_to(root)}:{found.line}: imports {found.module}, which belongs in {allowed}"
                )
    return sorted(set(faults))


def heavy_faults(root: Path) -> list[str]:
    """Light files whose import loads a heavy package, directly or through other files of the package."""
    faults = []
    for path in sources(root, PACKAGE):
        if path.relative_to(root / PACKAGE).as_posix().startswith(LIGHT):
            chain = _heavy_chain(path, root, seen=set())
            if chain:
                faults.append(" -> ".join(chain))
    return faults


def _heavy_chain(path: Path, root: Path, seen: set[Path]) -> list[str]:
    """The way from `path` to a heavy package: `file:line` of each import on it; empty where there is none."""
    seen.add(path)
    for found in imports(path, root):
        if not found.at_import_time:
            continue
        step = f"{path.relative_to(root)}:{found.line}: imports {found.module}"
        if found.module.split(".")[0] in HEAVY:
            return [step]
        for loaded in _loaded_files(found.module, root):
            if loaded not in seen and (rest := _heavy_chain(loaded, root, seen)):
                return [step, *rest]
    return []


def _loaded_files(module: str, root: Path) -> Iterator[Path]:
    """The package's own files that importing `module` runs: each parent's `__init__.py` and the file itself."""
    place = root
    for part in module.split("."):
        place = place / part
        for candidate in (place / "__init__.py", place.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def size_faults(root: Path) -> list[str]:
    """Files and functions that are too long, and files named so that they will hold anything."""
    faults = []
    for path in sources(root, PACKAGE, "tests", "benchmarks"):
        text, place = path.read_text(encoding="utf-8"), path.relative_to(root)
        lines = len(text.splitlines())
        if lines > LONGEST_FILE:
            faults.append(f"{place}:{lines}: the file has {lines} lines, more than {LONGEST_FILE}")
        if path.stem in {"utils", "util", "helpers", "misc", "common"}:
            faults.append(f"{place}:1: a file is named after what it holds, not {path.name}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    faults.append(
                        f"{place}:{node.lineno}: {node.name} has {length} lines, more than {LONGEST_FUNCTION}"
                    )
    return faults


RULES = [floor_faults, foreign_faults, heavy_faults, size_faults]


@pytest.mark.parametrize("rule", RULES)
def test_the_code_keeps_the_rule(rule) -> None:  # type: ignore[no-untyped-def]
    assert sources(ROOT, PACKAGE), "the package was not found"
    faults = rule(ROOT)
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "place", "text", "fault"),
    [
        (
            floor_faults,
            "model/a.py",
            "\nfrom glm_train.data import plan",
            "model/a.py:2: imports glm_train.data.plan; ",
        ),
        (
            floor_faults,
            "optim/a.py",
            "def f():\n    import glm_train.cli.b",
            "optim/a.py:2: imports glm_train.cli.b; ",
        ),
        (floor_faults, "text/a.py", "from ..data import plan", "text/a.py:1: imports glm_train.data.plan; "),
        (floor_faults, "demo/a.py", "from glm_train import build", "demo/a.py:1: imports glm_train.build; "),
        (floor_faults, "extra/a.py", "", "extra/a.py:1: extra has no floor"),
        (
            foreign_faults,
            "data/a.py",
            "import lightning.pytorch",
            "data/a.py:1: imports lightning.pytorch, which",
        ),
        (
            foreign_faults,
            "cli/a.py",
            "def f():\n    import peft",
            "cli/a.py:2: imports peft, which belongs in adapters/",
        ),
        (heavy_faults, "cli/a.py", "import glm_train.model.x", "cli/a.py:1: imports glm_train.model.x -> "),
        (
            heavy_faults,
            "cli/a.py",
            "try:\n    import torch\nexcept ImportError: ...",
            "cli/a.py:2: imports torch",
        ),
        (size_faults, "data/utils.py", "", "data/utils.py:1: a file is named after what it holds"),
        (size_faults, "data/a.py", "\n" * 300, "data/a.py:300: the file has 300 lines"),
        (size_faults, "data/a.py", "def f():\n" + "    x = 1\n" * 59, "data/a.py:1: f has 60 lines"),
    ],
)
def test_a_breach_is_found_where_it_is(rule, place: str, text: str, fault: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _tree(tmp_path, {place: text})
    (found,) = rule(tmp_path)
    assert found.startswith(f"glm_train/{fault}")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("cli/a.py", "def run():\n    import torch"),
        ("cli/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import glm_train.model.x"),
        ("tasks/a.py", "import lightning\nfrom glm_train.losses import y\nfrom glm_train import errors"),
        ("data/a.py", "def f():\n" + "    x = 1\n" * 58 + "\n" * 240),
    ],
)
def test_what_is_allowed_is_not_reported(place: str, text: str, tmp_path: Path) -> None:
    _tree(tmp_path, {place: text})
    assert [fault for rule in RULES for fault in rule(tmp_path)] == []


def _tree(root: Path, extra: dict[str, str]) -> None:
    files = {
        "errors.py": "",
        "build.py": "",
        "model/x.py": "import torch",
        "data/plan.py": "",
        "cli/b.py": "",
    }
    for place, text in (files | extra).items():
        path = root / PACKAGE / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
