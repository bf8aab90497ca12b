"""Run by two processes: runs under FSDP2 whose shards wait in the memory of the CPU, as `parallel.offload` has them.

On CPUs the setting is refused, for there it saves nothing. Here it gets past that, so that its path is gone through.
Its argument is a file of jobs, each whether to offload and the overrides of a run. The last line of rank 0 is JSON: how
many groups of weights were offloaded, and where Lightning leaves what waits when the device is another one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from glm_train import build_model, dist, run
from glm_train.config.compose import compose
from glm_train.launch import settle
from glm_train.parallel.rendezvous import Rendezvous, find_seat
from glm_train.parallel.shard import shard
from glm_train.parallel.strategy import RankStrategy
from support.rank_runs import SameGroup


def offloaded(model: Any, *args: Any, **settings: Any) -> None:
    shard(model, *args, **{**settings, "offload": True})


def groups(model: Any) -> list[bool]:
    """For each weight that FSDP2 has, whether it waits in the memory of the CPU."""
    from torch.distributed.fsdp import FSDPModule

    found = [m._get_fsdp_state()._fsdp_param_group for m in model.modules() if isinstance(m, FSDPModule)]
    return [weight.offload_to_cpu for group in found if group for weight in group.fsdp_params]


def moved_to_another_device(model: Any) -> list[str]:
    """The devices of the weights and of the buffers after Lightning has moved the model to `meta`."""
    task: Any = torch.nn.Module()
    task.model = model
    task.register_buffer("counts", torch.zeros(2))
    strategy: Any = RankStrategy(torch.device("meta"))
    strategy._lightning_module = task
    strategy.model_to_device()
    where = [tensor.device.type for tensor in (*task.parameters(), *task.buffers())]
    return [*sorted(set(where[: len(list(task.parameters()))])), task.counts.device.type, str(task._device)]


def main(listed: Path) -> None:
    seat = find_seat()
    assert seat is not None
    Rendezvous(seat).form_group("cpu")
    for offload, words in json.loads(listed.read_text()):
        build_model.shard = offloaded if offload else shard
        run.fit(settle(compose("chat_smoke", words), seat), "test", SameGroup(seat))
    torch.manual_seed(0)
    config = compose("chat_smoke", json.loads(listed.read_text())[0][1])
    build_model.shard = offloaded
    tokenizer: Any = None  # no adapter asks for it
    model, _ = build_model.build_model(config, tokenizer, None)
    found = {"offloaded": groups(model), "moved": moved_to_another_device(model)}
    if dist.rank() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
