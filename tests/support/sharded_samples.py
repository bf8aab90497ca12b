"""One rank of two: a sharded model answers samples, then takes a step (see `callbacks/test_samples_sharded.py`)."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch.distributed as torch_distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from glm_train import GlmForCausalLM, GlmTokenizer
from glm_train.callbacks.samples import answer_samples

PROMPTS = ("Hello", "What is the weather?", "你好")


def answers(model: GlmForCausalLM, tokenizer: GlmTokenizer) -> list[str]:
    prompts = [np.array(tokenizer.encode_plain(text), np.int32) for text in PROMPTS]
    return [answer.written for answer in answer_samples(model, tokenizer, prompts, 6)]


def main(folder: str, rank: int, store: str) -> None:
    torch_distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        tokenizer = GlmTokenizer.from_pretrained(folder)
        model = GlmForCausalLM.from_pretrained(folder).train()
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        made = answers(model, tokenizer)
        sharded = all(isinstance(p, DTensor) for p in model.parameters())
        ids = torch.tensor([tokenizer.encode_plain("Hello, how are you?")])
        loss = model(ids, labels=ids).loss
        loss.backward()
        print(json.dumps({"answers": made, "sharded": sharded, "loss": loss.item()}))
    finally:
        torch_distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
