"""Sweeps: which jobs there are, where they write, and what happens when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.cli.sweep import plan_sweep, quoted, sweep
from glm_train.config.compose import compose
from glm_train.config.overrides import parse_override
from glm_train.errors import ConfigError

# Stands in for `glm-train fit`: writes its arguments to a file and exits with the seed.
STUB = """
import json, re, sys
with open("calls.jsonl", "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
seed = next((a for a in sys.argv if a.startswith("seed=")), "seed=0")
sys.exit(int(seed[5:]))
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def labels(*overrides: str) -> list[str]:
    return [job.label for job in plan_sweep("quickstart", overrides)]


def calls() -> list[list[str]]:
    return [json.loads(line) for line in Path("calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["seed=1,2"], ["seed=1", "seed=2"]),
        (["seed=choice(3,1)"], ["seed=3", "seed=1"]),
        (["seed=range(0,3)"], ["seed=0", "seed=1", "seed=2"]),
        (["seed=1,2", "optim.lr=1e-3"], ["seed=1", "seed=2"]),
        (["optim=adamw", "seed=5"], [""]),
        (
            ["schedule=linear,wsd", "seed=1,2"],
            [f"schedule={s},seed={n}" for s in ("linear", "wsd") for n in (1, 2)],
        ),
        (["data.train=[a,b],[c]"], ["data.train=[a,b]", "data.train=[c]"]),
        (["optim.clip_norm=1,null"], ["optim.clip_norm=1", "optim.clip_norm=null"]),
    ],
)
def test_the_jobs_are_the_product(overrides: list[str], wanted: list[str]) -> None:
    assert labels(*overrides) == wanted


def test_every_job_has_a_folder_of_its_own_with_a_safe_name() -> None:
    jobs = plan_sweep("quickstart", ["data.train='a/../b c.jsonl',d", "seed=1,2"], now="2026-01-31_12-00-00")
    folders = [job.output_dir for job in jobs]
    assert {folder.parent for folder in folders} == {Path("runs/quickstart/2026-01-31_12-00-00")}
    assert len(set(folders)) == 4
    assert folders[0].name == "0_data.train=-a-..-b-c.jsonl-,seed=1"
    assert folders[3].name == "3_data.train=d,seed=2"


def test_the_jobs_compose_to_what_was_asked() -> None:
    for job, seed in zip(plan_sweep("quickstart", ["seed=1,2", "output_dir=my out"]), (1, 2), strict=True):
        config = compose("quickstart", list(job.overrides))
        assert config.seed == seed
        assert config.output_dir == str(job.output_dir) == f"my out/{seed - 1}_seed={seed}"


def test_long_names_are_cut() -> None:
    (job, _) = plan_sweep("quickstart", [f"run_name={'x' * 300},y"])
    assert len(job.output_dir.name) <= 120
    assert job.output_dir.name.startswith("0_run_name=xxx")


def test_a_sweep_starts_nothing_when_one_job_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep("quickstart", ["optim.lr=1e-3,-1"], [sys.executable, "-c", STUB])
    assert str(caught.value).startswith(
        "No job was started: optim.lr=-1 is wrong.\noptim.lr: must be above 0"
    )
    assert not Path("calls.jsonl").exists()


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("output_dir=a,b", "every job of a sweep gets a folder of its own"),
        ("optim.lr=interval(0,1)", "an interval has no list of values"),
        ("seed", "not of the form key=value"),
    ],
)
def test_sweeps_that_cannot_be(argument: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        plan_sweep("quickstart", [argument])


@pytest.mark.parametrize("argument", ["seed=range(0,1000000000)", "optim.lr=" + ",".join(["1"] * 10_001)])
def test_a_sweep_of_too_many_jobs_is_refused_at_once(argument: str) -> None:
    with pytest.raises(ConfigError, match="more than 10,000 jobs"):
        plan_sweep("chat_smoke", [argument, "data.max_length=8,9"])


def test_a_file_in_the_way_is_refused_before_the_first_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file, not a folder"):
        plan_sweep("chat_smoke", ["seed=1,2", f"output_dir={tmp_path / 'file' / 'deep'}"])


def test_a_folder_that_no_file_system_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be used: File name too long"):
        plan_sweep("chat_smoke", ["seed=1,2", f"output_dir={'x' * 300}"])


def test_a_folder_of_nobody() -> None:
    with pytest.raises(ConfigError, match="~nouser has no home folder"):
        plan_sweep("quickstart", ["seed=1,2", "output_dir=~nouser/x"])


def test_jobs_run_in_order_and_one_that_fails_does_not_stop_the_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = sweep("quickstart", ["seed=0,3,2,0"], [sys.executable, "-c", STUB])
    assert code == 3
    assert [call[:2] for call in calls()] == [["quickstart", f"seed={seed}"] for seed in (0, 3, 2, 0)]
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("[1/4] seed=0: done, ")
    assert lines[1].startswith("[2/4] seed=3: failed with exit code 3, ")
    assert lines[3].startswith("[4/4] seed=0: done, ")


def test_a_sweep_that_went_well_is_0() -> None:
    assert sweep("quickstart", ["optim.lr=1e-3,1e-4"], [sys.executable, "-c", STUB]) == 0
    assert len(calls()) == 2


def test_a_job_that_is_killed_counts_as_failed() -> None:
    stub = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert sweep("quickstart", ["seed=1,2"], [sys.executable, "-c", stub]) == 128 + signal.SIGKILL


def test_sigterm_lets_the_job_finish_saving_and_starts_no_other(tmp_path: Path) -> None:
    job = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'a').write('x'), sys.exit(143)))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    program = (
        "import sys\nfrom glm_train.cli.sweep import sweep\n"
        f"sys.exit(sweep('quickstart', ['seed=1,2'], [sys.executable, '-c', {job!r}]))"
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 143
    assert Path("saved").read_text() == "x"
    assert "1 jobs were not started" in done.stderr


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])).filter(lambda text: "$" not in text))
def test_quoted_texts_are_read_back_letter_for_letter(text: str) -> None:
    assert parse_override(f"output_dir={quoted(text)}").value() == text  # type: ignore[union-attr, operator]
