"""The built wheel carries the configuration, and works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("hatchling") is None, reason="hatchling, which builds the wheel, is not installed"
    ),
]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, built from this checkout."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = dist.glob("glm_train-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def run(unpacked: Path, cwd: Path, *arguments: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["PYTHONPATH"] = str(unpacked)
    program = "import sys, glm_train; from glm_train.cli.main import main; print(glm_train.__file__, file=sys.stderr); "
    command = [sys.executable, "-P", "-c", f"{program} sys.exit(main(sys.argv[1:]))", *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(unpacked))  # not the checkout
    return done.stdout


@pytest.mark.parametrize("name", ["conf", "recipes"])
def test_every_configuration_file_is_inside(unpacked: Path, name: str) -> None:
    assert names(unpacked / "glm_train" / f"_{name}") == names(ROOT / name)
    assert names(ROOT / name)


def test_the_wheel_holds_the_package_and_nothing_beside_it(unpacked: Path) -> None:
    tops = {path.name for path in unpacked.iterdir()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"glm_train"}


def test_show_and_recipes_work_without_a_checkout(unpacked: Path, tmp_path: Path) -> None:
    assert "path: demo/tiny-glm" in run(unpacked, tmp_path, "show", "quickstart")
    assert len(run(unpacked, tmp_path, "recipes").splitlines()) == len(names(ROOT / "recipes"))
