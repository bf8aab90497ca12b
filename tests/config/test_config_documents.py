"""Recipe files that cannot be read, are not recipes, or build on the wrong thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train.config.compose import compose, recipes
from glm_train.errors import ConfigError

# Ten lists, each of ten times the one above: 10**9 values.
BILLION = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


def told(recipe: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(recipe, ["model.path=m", "data.train=t.jsonl", "trainer.max_steps=1"])
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", ":1: a recipe is a mapping of settings, not a list"),
        ("hello\n", ":1: a recipe is a mapping of settings, not the text 'hello'"),
        ("seed: 1\nseed: 2\n", ":2: the key 'seed' is already there on line 1"),
        ("seed: 1\n  lr: 2\n", ":2: not valid YAML"),
        ("data:\n  train: [a, b\nseed: 1\n", ":3: not valid YAML"),
        ("seed: 1\n\tx: 1\n", ": not valid YAML"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            ":1: the YAML tag tag:yaml.org,2002:python/object/apply:os.system is not read",
        ),
        ("seed: 1\ndata: !files\n  train: a\n", ":2: the YAML tag !files is not read"),
        ("data:\n  train: !glob [a]\n", ":2: the YAML tag !glob is not read"),
        ("!run\nseed: 1\n", ": the YAML tag !run is not read"),
        ("!env seed: 1\n", ":1: the YAML tag !env is not read"),
        ("data: !!set {train}\n", ":1: the YAML tag tag:yaml.org,2002:set is not read"),
        ("{a: " * 500, ":1: nested too deep for a recipe"),
        ("a: " + "[" * 20_000, ":1: nested too deep for a recipe"),
        ("".join(f"{'  ' * depth}a:\n" for depth in range(500)), ":21: nested too deep for a recipe"),
        (BILLION, ":2: an alias (*a0) is not read; write the values out"),
        ("data: {train: &files [a], validation: *files}\n", ":1: an alias (*files) is not read"),
        ("seed: !!binary aGk=\n", ":1: the YAML tag tag:yaml.org,2002:binary is not read"),
        ("seed: !env X\n", ":1: the YAML tag !env is not read"),
        ("seed: !!int x\n", ":1: 'x' is not a int"),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML"),
        ("? [a, b]\n: 1\n", ":1: a key must be a plain word"),
        ("x: &x {lr: 1}\noptim:\n  <<: *x\n", ":3: an alias (*x) is not read"),
        ("optim:\n  <<: {lr: 1}\n", ":2: a key must be a plain word; merge keys"),
        ("x: &x [*x]\n", ":1: an alias (*x) is not read"),
        ("seed: 1\nbell: \x07\n", ":2: not valid YAML: the character '\\x07' is not allowed"),
        ("defaults: base\n", "defaults: must be a list"),
        ("defaults: [_self_, base]\n", "`_self_` goes last"),
        ("defaults: [3]\n", "defaults: 3 is neither a recipe's name nor `override GROUP: CHOICE`"),
        ("defaults: [{optim: adamw}]\n", "must be written `override optim: adamw`"),
        ("defaults: [{override optim: sgd}]\n", "optim can be adamw"),
        ("defaults: [{override optim: '${seed}'}]\n", "optim can be adamw"),
        ("defaults: [{override optim: [adamw]}]\n", "optim can be adamw"),
        ("defaults: [quickstrt]\n", "there is no recipe 'quickstrt' to build on. Did you mean 'quickstart'?"),
        ("defaults: [mine]\n", "this recipe builds on itself"),
        ("schedule: linear\n", "under `defaults` write `- override schedule: linear`"),
        ("schedule: 3\n", "schedule: expected the settings of the group, got 3"),
        ("schedule: {name: lin}\n", "schedule can be cosine"),
        (
            "defaults: [{override schedule: wsd}]\nschedule: {name: linear}\n",
            "contradicts `override schedule: wsd`",
        ),
        (
            "defaults:\n- override schedule: wsd\n- override schedule: linear\n",
            "`override schedule: linear` contradicts `override schedule: wsd` above it; keep one",
        ),
        ("optim: [1]\n", "optim: expected the settings of the group, got [1]"),
        ("batch: [1]\n", "batch: expected settings such as batch.key, got [1]"),
        ("run_name: 2024\n", "expected a text or null, got 2024 (put it in quotes)"),
        ("run_name: ${\n", "run_name: '${' is refused"),
        ("data: {train: [a, '${oc.env:X}']}\n", "data.train.1: '${oc.env:X}' is refused"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, part: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text, encoding="utf-8")
    message = told(str(recipe))
    assert part in message
    assert str(recipe) in message


def test_a_cycle_of_two(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("defaults: [b]\n")
    (tmp_path / "b.yaml").write_text("defaults: [a]\n")
    assert "a.yaml: this recipe builds on itself, by way of" in told(str(tmp_path / "a.yaml"))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes("run_name: 训练\n".encode("gbk"))
    assert "mine.yaml: not UTF-8 text (byte 12). Save the file as UTF-8." in told(str(recipe))


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: 3\n", encoding="utf-8-sig")
    assert compose(str(recipe), ["model.path=m", "data.train=t", "trainer.max_steps=1"]).seed == 3


def test_dates_are_texts(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("run_name: 2026-01-31\n")
    config = compose(str(recipe), ["model.path=m", "data.train=t", "trainer.max_steps=1"])
    assert config.run_name == "2026-01-31"


def test_a_folder(tmp_path: Path) -> None:
    assert f"{tmp_path} is a folder; a recipe is a YAML file" in told(str(tmp_path))


def test_a_file_that_is_not_there() -> None:
    message = told("./quickstrat.yaml")
    assert "./quickstrat.yaml: there is no such recipe file" in message
    assert "Did you mean 'quickstart'?" in message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: 1\n")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        Path, "read_bytes", refuse
    )  # root may read everything, so the mode alone proves nothing
    assert "cannot be read (Permission denied)" in told(str(recipe))


def test_an_unknown_name_gets_the_nearest_one() -> None:
    message = told("quickstrat")
    assert "There is no recipe named 'quickstrat'. Did you mean 'quickstart'?" in message
    assert "`glm-train recipes`" in message


def test_a_name_with_a_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 1\n")
    assert "There is a file ./mine.yaml: give that path." in told("mine")


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        ("~nouser/x.yaml", "~nouser has no home folder"),
        ("a" * 400, "cannot be read (File name too long)"),
        ("x" + "/a" * 4000, "cannot be read (File name too long)"),
        ("a" * 252, "cannot be read (File name too long)"),
        ("./a\0b.yaml", "no file can have this name"),
    ],
)
def test_names_that_no_file_can_have(recipe: str, part: str) -> None:
    assert part in told(recipe)


@pytest.mark.parametrize("parent", ["a" * 400, '"a\\0b"'])
def test_parents_that_no_file_can_have(tmp_path: Path, parent: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"defaults: [{parent}]\n")
    assert any(part in told(str(recipe)) for part in ("File name too long", "no file can have this name"))


def test_an_empty_name() -> None:
    assert "There is no recipe named ''." in told("")


def test_the_list_of_recipes() -> None:
    found = recipes()
    assert [name for name, _ in found] == sorted(name for name, _ in found)
    assert all(purpose and not purpose.startswith("#") for _, purpose in found)
