"""How Lightning runs one of several processes: as if it were alone.

Lightning's `ModelParallelStrategy` and `DDPStrategy` are not used. They make the process group and the model's shards
inside `fit`, when our steps, data and resume state must know both before; they broadcast a tensor and wait for the
device at every batch, to notice a SIGTERM of rank 0 alone; they cannot clip by the norm; and save pickles in place.
What a step needs from other processes is one call in `gradients.py`, and the model is spread by `shard.py`. So for
Lightning each process trains a model on one device, and it adds no communication of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from glm_train import dist
from glm_train.parallel.shard import is_sharded, let_go, whole


class RankStrategy(SingleDeviceStrategy):
    """One process of several, on `device`. The process group is there before, and stays after."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device=device)
        self.global_rank = dist.rank()

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    def model_to_device(self) -> None:
        """Move all but shards that wait in the memory of the CPU."""
        task: Any = self.lightning_module
        waiting = is_sharded(task.model) and self.root_device.type != next(task.parameters()).device.type
        if not waiting:
            super().model_to_device()
            return
        task._device = (
            self.root_device
        )  # what `task.device` gives; nothing sets it without moving the weights
        for name, buffer in task.named_buffers():
            owner, _, leaf = name.rpartition(".")
            task.get_submodule(owner)._buffers[leaf] = buffer.to(self.root_device)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        model: Any = self.lightning_module.model
        try:
            return whole(model, super().validation_step, *args)
        finally:
            if is_sharded(model):
                let_go(model)

    def teardown(self) -> None:
        """The model stays where it is: it is gathered and saved after the trainer's end."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
