"""Run by two processes: adapted models under FSDP2 get the gradients that they get whole. Prints the largest difference
of each kind."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.adapted import adapted, ids
from support.tiny_heads import make


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = {}
    for name, settings in json.loads(sys.argv[1]).items():
        whole = adapted(make().to(torch.bfloat16), **settings).train()
        sharded = copy.deepcopy(whole)
        for part in (*sharded.model.layers, sharded):  # type: ignore[union-attr, misc]
            fully_shard(part, mesh=mesh)
        for model in (whole, sharded):
            model(ids(), labels=ids()).loss.backward()
        found[name] = max(
            (mine.grad.full_tensor() - other.grad).abs().max().item()  # type: ignore[union-attr]
            for mine, other in zip(sharded.parameters(), whole.parameters(), strict=True)
            if other.requires_grad
        )
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
