"""Run by two processes: models that are shared out are saved one tensor at a time, and as `gather_on_rank_0` has them.

Its arguments: a folder to write into, and model folders. The last line of rank 0 is JSON: for each model and kind of
save how many tensors were gathered and how many of them were there at most when the next one came, and what all
processes said when the first one failed.
"""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed

sys.path.insert(0, str(Path(__file__).parent.parent))
from glm_train import dist
from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.build_model import MODELS
from glm_train.checkpoint import gathered
from glm_train.checkpoint.gathered import end_sharing, write_together
from glm_train.checkpoint.mapped import map_weights
from glm_train.config.compose import compose
from glm_train.errors import CheckpointError
from glm_train.parallel.shard import build_mesh, shard
from glm_train.run_result import save_result, save_result_together
from glm_train.text.tokenizer import GlmTokenizer
from support.whole_weights import gather_on_rank_0

KINDS: dict[str, tuple[str, LoraSettings | None]] = {
    "full": ("chat", None),
    "classes": ("token_classification", None),
    "lora": ("chat", LoraSettings(r=4, modules_to_save=("embed_tokens",))),
    "pissa": ("token_classification", LoraSettings(r=4, init="pissa", dora=True)),
}


def shared(base: Path, kind: str) -> Any:
    task, settings = KINDS[kind]
    torch.manual_seed(3)
    model = MODELS[task].from_pretrained(base, dtype=torch.float32, device="meta")
    map_weights(model, base, torch.float32)
    if settings is not None:
        add_adapter(model, settings)
    shard(model, build_mesh("cpu", dist.world_size()), dtype=None, compute=None)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.25)
    return model


class Counted:
    """Counts what is gathered, and how much of it is still held by somebody."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.most_held = 0
        self.whole = gathered._whole

    def __call__(self, tensor: Any) -> torch.Tensor:
        self.most_held = max(self.most_held, sum(made() is not None for made in self.made))
        found = self.whole(tensor)
        self.made.append(weakref.ref(found))
        return found


def save_both(base: Path, place: Path) -> dict[str, Any]:
    tokenizer, found = GlmTokenizer.from_pretrained(base), {}
    for kind, (_, settings) in KINDS.items():
        words = [f"model.path={base}", "data.train=none", *(["adapter=lora"] if settings else [])]
        config = compose("chat_smoke", words)
        model = shared(base, kind)
        gather_on_rank_0(model)
        if dist.rank() == 0:
            save_result(place / f"{kind}-whole", config, model, tokenizer)
        dist.wait_for_all()
        gathered._whole = counted = Counted()
        save_result_together(place / f"{kind}-streamed", config, shared(base, kind), tokenizer)
        gathered._whole = counted.whole
        found[kind] = [len(counted.made), counted.most_held]
    return found


def fail(base: Path) -> list[str]:
    """What each process raises."""

    def write(tensors: Any) -> None:
        for tensor in list(tensors.values())[:3]:
            tensor.make()
        raise CheckpointError("the disk is full")

    said = ""
    try:
        write_together(end_sharing(shared(base, "full")), write)
    except CheckpointError as error:
        said = str(error)
    return dist.gather_objects(said)


def main(place: Path, bases: list[Path]) -> None:
    torch.distributed.init_process_group("gloo")
    found = {base.name: save_both(base, place / base.name) for base in bases}
    said = fail(bases[0])
    if dist.rank() == 0:
        print(json.dumps({"gathered": found, "said": said}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
