"""Loading and saving weights: every name and shape is accounted for, and bytes survive a round trip."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from glm_train.checkpoint import weights
from glm_train.checkpoint.index import INDEX_NAME, SINGLE_NAME, read_index
from glm_train.checkpoint.weights import load_weights, save_weights
from glm_train.errors import CheckpointError


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(6, 4)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("steps", torch.tensor([3, 4]))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


class Headed(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.model = Body()
        self.lm_head = nn.Linear(4, 6, bias=False)
        if tied:
            self.lm_head.weight = self.model.embed_tokens.weight


def on_meta(module: type[nn.Module], *args: object) -> nn.Module:
    with torch.device("meta"):
        return module(*args)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 100, 1])
def test_round_trip_is_bit_exact(tmp_path: Path, max_shard_bytes: int) -> None:
    source = Headed()
    save_weights(source, tmp_path / "a", max_shard_bytes=max_shard_bytes)
    target = on_meta(Headed)
    target.model.scratch = torch.zeros(2)
    load_weights(target, tmp_path / "a")
    state = source.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in target.state_dict().items())
    save_weights(target, tmp_path / "b", max_shard_bytes=max_shard_bytes)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_shards_respect_the_limit_and_the_index_tells_all(tmp_path: Path) -> None:
    state = {f"t{n}": torch.full((10,), float(n)) for n in range(5)} | {"large": torch.zeros(100)}
    save_weights(state, tmp_path, max_shard_bytes=80)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index["metadata"] == {"total_parameters": 150, "total_size": 600}
    assert sorted(set(index["weight_map"].values())) == [
        f"model-{n:05d}-of-00004.safetensors" for n in (1, 2, 3, 4)
    ]
    for file in set(index["weight_map"].values()):
        sizes = [tensor.nbytes for tensor in load_file(tmp_path / file).values()]
        assert sum(sizes) <= 80 or len(sizes) == 1
    assert {name: stored.file.name for name, stored in read_index(tmp_path).tensors.items()} == index[
        "weight_map"
    ]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, None])
def test_meta_parameters_get_the_dtype_asked_for(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype | None
) -> None:
    source = Headed().to(stored)
    save_weights(source, tmp_path)
    target = on_meta(Headed)
    load_weights(target, tmp_path, dtype=wanted)
    expected = wanted or stored
    assert target.lm_head.weight.dtype == expected
    assert torch.equal(target.lm_head.weight, source.lm_head.weight.to(expected))
    assert target.model.steps.tolist() == [3, 4]
    assert target.model.steps.dtype == torch.int64


def test_mixed_files_load_in_the_widest_dtype(tmp_path: Path) -> None:
    state = Headed().state_dict()
    state["lm_head.weight"] = state["lm_head.weight"].half()
    state["model.norm.weight"] = state["model.norm.weight"].bfloat16()
    save_weights({n: t.half() if n == "model.norm.bias" else t for n, t in state.items()}, tmp_path)
    target = on_meta(Headed)
    load_weights(target, tmp_path)
    assert {p.dtype for p in target.parameters()} == {torch.float32}


def test_parameters_with_memory_are_filled_in_place(tmp_path: Path) -> None:
    source = Headed()
    save_weights(source, tmp_path)
    target = Headed().bfloat16()
    target.lm_head.weight.requires_grad_(False)
    before = dict(target.named_parameters())
    places = {name: parameter.data_ptr() for name, parameter in before.items()}
    load_weights(target, tmp_path)
    for name, parameter in target.named_parameters():
        assert parameter is before[name]
        assert parameter.data_ptr() == places[name]
        assert torch.equal(parameter, source.get_parameter(name).bfloat16())
    assert not target.lm_head.weight.requires_grad
    assert target.model.norm.weight.requires_grad


def test_loaded_tensors_own_their_memory(tmp_path: Path) -> None:
    source = Headed()
    save_weights(source, tmp_path)
    target = on_meta(Headed)
    load_weights(target, tmp_path)
    (tmp_path / SINGLE_NAME).write_bytes(bytes((tmp_path / SINGLE_NAME).stat().st_size))
    assert torch.equal(target.lm_head.weight, source.lm_head.weight)


class TestTied:
    def test_written_once_and_tied_again(self, tmp_path: Path) -> None:
        source = Headed(tied=True)
        save_weights(source, tmp_path)
        assert "lm_head.weight" not in read_index(tmp_path).tensors
        target = on_meta(Headed, True)
        load_weights(target, tmp_path)
        assert target.lm_head.weight is target.model.embed_tokens.weight
        assert torch.equal(target.lm_head.weight, source.lm_head.weight)

    def test_stored_twice_and_equal_is_fine(self, tmp_path: Path) -> None:
        state = {name: tensor.clone() for name, tensor in Headed(tied=True).state_dict().items()}
        save_weights(state, tmp_path, max_shard_bytes=100)
        assert "lm_head.weight" in read_index(tmp_path).tensors
        target = on_meta(Headed, True)
        load_weights(target, tmp_path)
        assert torch.equal(target.lm_head.weight, state["lm_head.weight"])

    def test_stored_twice_and_different_is_refused(self, tmp_path: Path) -> None:
        save_weights(Headed(), tmp_path)
        with pytest.raises(CheckpointError, match=r"ties model\.embed_tokens\.weight and lm_head\.weight"):
            load_weights(on_meta(Headed, True), tmp_path)

    def test_tied_body_fills_the_head(self, tmp_path: Path) -> None:
        body = Body()
        save_weights(body, tmp_path)
        target = on_meta(Headed, True)
        load_weights(target, tmp_path)
        assert torch.equal(target.lm_head.weight, body.embed_tokens.weight)


def test_headed_folder_fits_a_bare_body(tmp_path: Path) -> None:
    source = Headed()
    save_weights(source, tmp_path)
    target = on_meta(Body)
    load_weights(target, tmp_path)
    assert torch.equal(target.embed_tokens.weight, source.model.embed_tokens.weight)


def test_body_does_not_make_an_untied_head(tmp_path: Path) -> None:
    save_weights(Body(), tmp_path)
    with pytest.raises(CheckpointError, match="without a head; load it as GlmModel"):
        load_weights(on_meta(Headed), tmp_path)


def test_stored_rotary_frequencies_are_passed_over(tmp_path: Path) -> None:
    state = Headed().state_dict()
    save_weights({**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, tmp_path)
    load_weights(on_meta(Headed), tmp_path)


def test_everything_that_does_not_fit_is_listed_at_once_and_nothing_changes(tmp_path: Path) -> None:
    state = Headed().state_dict()
    del state["model.norm.bias"]
    state["lm_head.weight"] = torch.zeros(7, 4)
    state["model.norm.weight"] = torch.zeros(4, dtype=torch.int8)
    state |= {f"visual.{n}": torch.zeros(1) for n in range(9)}
    save_weights(state, tmp_path)
    target = Headed()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, tmp_path)
    text = str(caught.value)
    assert "missing in the folder (1): model.norm.bias" in text
    assert "not in the model (9): visual.0, " in text
    assert "visual.7, ..." in text
    assert "lm_head.weight is [7, 4], the model needs [6, 4]" in text
    assert "model.norm.weight is torch.int8" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_eight_bit_floats_are_not_taken_for_weights(tmp_path: Path) -> None:
    state = Headed().state_dict()
    save_weights({**state, "lm_head.weight": state["lm_head.weight"].to(torch.float8_e4m3fn)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"quantised.*lm_head.weight is torch.float8_e4m3fn"):
        load_weights(on_meta(Headed), tmp_path)


class TestSavingOverAModel:
    def test_refused_unless_asked(self, tmp_path: Path) -> None:
        save_weights({"a": torch.zeros(1)}, tmp_path)
        before = (tmp_path / SINGLE_NAME).read_bytes()
        with pytest.raises(CheckpointError, match="already holds a model"):
            save_weights({"a": torch.ones(1)}, tmp_path)
        assert (tmp_path / SINGLE_NAME).read_bytes() == before

    @pytest.mark.parametrize(("old", "new"), [(10, 10**6), (10**6, 10), (10, 20)])
    def test_replaces_every_file_of_the_old_one(self, tmp_path: Path, old: int, new: int) -> None:
        (tmp_path / "tokenizer.json").write_text("{}")
        save_weights({f"t{n}": torch.zeros(2) for n in range(5)}, tmp_path, max_shard_bytes=old)
        state = {f"t{n}": torch.ones(2) for n in range(5)}
        save_weights(state, tmp_path, max_shard_bytes=new, overwrite=True)
        save_weights(state, tmp_path / "fresh", max_shard_bytes=new)
        names = {p.name for p in tmp_path.iterdir() if p.is_file()}
        assert names == {"tokenizer.json"} | {p.name for p in (tmp_path / "fresh").iterdir()}
        assert all(
            load_file(file)[name].eq(1).all()
            for file in read_index(tmp_path).files
            for name in load_file(file)
        )

    def test_cut_off_before_the_rename_leaves_the_old_model(self, tmp_path: Path, monkeypatch) -> None:
        save_weights({"a": torch.zeros(1)}, tmp_path)

        def fail(folder: Path, names: list[str]) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(weights, "_publish", fail)
        with pytest.raises(KeyboardInterrupt):
            save_weights({"a": torch.ones(1)}, tmp_path, overwrite=True)
        assert load_file(tmp_path / SINGLE_NAME)["a"].item() == 0
        assert [p.name for p in tmp_path.iterdir()] == [SINGLE_NAME]

    @pytest.mark.parametrize("at", range(1, 5))
    def test_cut_off_between_renames_is_never_half_a_model(
        self, tmp_path: Path, monkeypatch, at: int
    ) -> None:
        save_weights({f"t{n}": torch.zeros(2) for n in range(3)}, tmp_path, max_shard_bytes=8)
        renames, rename = [], Path.rename

        def counted(self: Path, target: Path) -> Path:
            renames.append(self)
            if len(renames) == at:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", counted)
        with pytest.raises(KeyboardInterrupt):
            save_weights(
                {f"t{n}": torch.ones(2) for n in range(3)}, tmp_path, max_shard_bytes=8, overwrite=True
            )
        with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
            read_index(tmp_path)


def test_leftovers_of_a_killed_save_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".tmp-model.safetensors").write_bytes(b"half")
    save_weights({"a": torch.zeros(1)}, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [SINGLE_NAME]


def test_full_disk_is_told_in_bytes_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"needs 41\d\d bytes .* where 1000 bytes"):
        save_weights({"a": torch.zeros(1000)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failing_disk_leaves_the_old_model(tmp_path: Path, monkeypatch, number: int) -> None:
    save_weights({"a": torch.zeros(1)}, tmp_path)

    def fail(*args: object) -> None:
        raise OSError(number, "the disk says no")

    monkeypatch.setattr(weights, "write_tensors", fail)
    with pytest.raises(CheckpointError, match="the disk says no"):
        save_weights({"a": torch.ones(1)}, tmp_path, overwrite=True)
    assert load_file(tmp_path / SINGLE_NAME)["a"].item() == 0


def test_files_written_by_the_library_load(tmp_path: Path) -> None:
    source = Headed()
    save_file(source.state_dict(), tmp_path / SINGLE_NAME)
    target = on_meta(Headed)
    load_weights(target, tmp_path)
    assert torch.equal(target.lm_head.weight, source.lm_head.weight)
