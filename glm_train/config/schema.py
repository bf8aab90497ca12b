"""Every setting of a run, with its unit, default and limits. The defaults live here and nowhere else.

A group (`model`, `schedule`, ...) has one dataclass for each of its choices, told apart by the field `name`;
the file `conf/<group>/<name>.yaml` picks it. So a key that the choice does not read cannot be set at all.
Fields without a default must come from the recipe or the command line. `None` is written `null` in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from glm_train.config.data_settings import (
    ChatData,
    ChatTask,
    Data,
    SequenceClassification,
    SequenceData,
    Task,
    TokenClassification,
    TokenData,
)
from glm_train.config.limits import (
    AtLeastOne,
    Beta,
    FilePath,
    NotNegative,
    NotNegativeReal,
    Positive,
    Ratio,
    Refusal,
    Seed,
    Text,
)
from glm_train.config.model_settings import (
    FP16,
    PURE_BF16,
    Adapter,
    GlmModelSettings,
    LoraAdapter,
    NoAdapter,
    QloraAdapter,
)

Precision = Annotated[
    Literal["fp32", "bf16-mixed"],
    Refusal(
        {
            "16": FP16,
            "fp16": FP16,
            "16-mixed": FP16,
            "16-true": FP16,
            "fp16-mixed": FP16,
            "bf16": "say which: bf16-mixed keeps the weights in fp32 and computes in bf16",
            "bf16-true": PURE_BF16,
            "32": "it is written fp32 here",
            "32-true": "it is written fp32 here",
        }
    ),
]


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """The size of one microbatch and how many make an optimizer step."""

    tokens: AtLeastOne | None = None  # most tokens in one microbatch; null: data.max_length
    documents: AtLeastOne | None = None  # a fixed number of documents in one microbatch instead
    accumulate: AtLeastOne = 1  # microbatches per optimizer step


@dataclass(frozen=True, kw_only=True)
class SamplesSettings:
    """Answers of the chat model, while it trains, to prompts of the validation data."""

    every: AtLeastOne | None = None  # optimizer steps between answers; null: none
    count: AtLeastOne = 4  # prompts, the same each time
    max_new_tokens: AtLeastOne = 64  # longest answer


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101). The defaults suit a full fine-tune."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-5  # peak learning rate
    weight_decay: NotNegativeReal = 0.01  # per step, times lr; not on embeddings, norms and biases
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # decay of the running mean of the gradient and of its square
    eps: Positive = 1e-8  # added to the root of the second moment
    clip_norm: Positive | None = 1.0  # largest norm of the whole gradient; null: no clipping


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The rise that every schedule begins with: by equal parts, and the last of its steps has the peak."""

    warmup_steps: NotNegative | None = None  # optimizer steps; null: from warmup_ratio
    warmup_ratio: Ratio = 0.0  # share of all optimizer steps

    def resolve_warmup(self, total_steps: int) -> int:
        """The length of the warm-up in optimizer steps, for a run of `total_steps`."""
        return self.warmup_steps if self.warmup_steps is not None else round(self.warmup_ratio * total_steps)


@dataclass(frozen=True, kw_only=True)
class CosineSchedule(WarmUp):
    """Half a cosine from the peak to the floor."""

    decay_ratio: ClassVar[float] = 0.0  # no setting here; spares readers asking which schedule it is
    name: Literal["cosine"] = "cosine"
    min_lr_ratio: Ratio = 0.0  # the floor, as a share of optim.lr


@dataclass(frozen=True, kw_only=True)
class LinearSchedule(WarmUp):
    """A straight line from the peak to the floor."""

    decay_ratio: ClassVar[float] = 0.0
    name: Literal["linear"] = "linear"
    min_lr_ratio: Ratio = 0.0  # the floor, as a share of optim.lr


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule(WarmUp):
    """The peak, to the end."""

    decay_ratio: ClassVar[float] = 0.0
    min_lr_ratio: ClassVar[float] = 1.0
    name: Literal["constant"] = "constant"


@dataclass(frozen=True, kw_only=True)
class WsdSchedule(WarmUp):
    """Warm-up, stable, decay: the peak for most of the run, then down to the floor."""

    name: Literal["wsd"] = "wsd"
    min_lr_ratio: Ratio = 0.0  # the floor, as a share of optim.lr
    decay_ratio: Ratio = 0.1  # share of all optimizer steps spent going down


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long, on what, in what precision, and how often it validates, saves and logs."""

    name: Literal["default"] = "default"
    max_steps: AtLeastOne | None = None  # optimizer steps; with max_epochs, whichever comes first
    max_epochs: AtLeastOne | None = None  # passes over the training data
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"  # auto: a GPU where there is one
    devices: AtLeastOne = 1  # processes on each machine, each with a device of its own
    num_nodes: AtLeastOne = 1  # machines
    precision: Precision = "fp32"  # of the computation; the weights are fp32 in both
    validate_every: AtLeastOne | None = None  # optimizer steps; null: at the end of each epoch
    save_every: AtLeastOne | None = None  # optimizer steps between states; null: at the end of each epoch
    log_every: AtLeastOne = 10  # optimizer steps
    keep: AtLeastOne = 2  # newest resume states kept on disk
    async_save: bool = False  # write states while training goes on; up to two are copied into CPU memory
    result: Literal["last", "best"] = "last"  # which model the run leaves; best: by task.metric
    patience: AtLeastOne | None = None  # validations in a row without a better task.metric that end the run


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """What every way of spreading a model does with its layers."""

    # full: less memory, a third more compute; selective: the products that cost most are kept, half of the memory
    activation_checkpointing: Literal["none", "full", "selective"] = "none"  # what backward computes again
    compile: bool = False  # torch.compile each layer: slow first step, faster later ones


@dataclass(frozen=True, kw_only=True)
class SingleDevice(_Layers):
    """One process on one device."""

    name: Literal["single"] = "single"


@dataclass(frozen=True, kw_only=True)
class DataParallel(_Layers):
    """Every process has the whole model; gradients are averaged once a step."""

    name: Literal["ddp"] = "ddp"


@dataclass(frozen=True, kw_only=True)
class FullySharded(_Layers):
    """Every process has its share of weights, gradients and optimizer state (FSDP2)."""

    name: Literal["fsdp"] = "fsdp"
    offload: bool = False  # weights, gradients and optimizer state wait in the memory of the CPU
    prefetch: NotNegative = 1  # layers whose weights are fetched while the one before them runs


@dataclass(frozen=True, kw_only=True)
class HybridSharded(FullySharded):
    """Groups of processes that each share out one copy of the model; between groups, gradients are averaged."""

    name: Literal["hsdp"] = "hsdp"  # type: ignore[assignment]
    shard_size: AtLeastOne | None = None  # processes that share one copy; null: those of one machine


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """No tracker. metrics.csv is written all the same."""

    name: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class CsvLogger:
    """metrics.csv in the run folder, and nothing else."""

    name: Literal["csv"] = "csv"


@dataclass(frozen=True, kw_only=True)
class WandbLogger:
    """Weights & Biases. The API key is read from WANDB_API_KEY or `wandb login`, never from here."""

    name: Literal["wandb"] = "wandb"
    project: Text = "glm-train"
    entity: Text | None = None  # user or team; null: the account's default
    mode: Literal["auto", "online", "offline"] = "auto"  # auto: online where a key is found, else offline


@dataclass(frozen=True, kw_only=True)
class TensorBoardLogger:
    """TensorBoard event files in the run folder."""

    name: Literal["tensorboard"] = "tensorboard"


Schedule = CosineSchedule | LinearSchedule | ConstantSchedule | WsdSchedule
Parallel = SingleDevice | DataParallel | FullySharded | HybridSharded
Logger = NoLogger | CsvLogger | WandbLogger | TensorBoardLogger


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. Made by `compose`, which checks it; printed by `to_yaml`."""

    model: GlmModelSettings
    task: Task = ChatTask()  # noqa: RUF009
    data: Data
    adapter: Adapter = NoAdapter()  # noqa: RUF009
    batch: BatchSettings = BatchSettings()
    samples: SamplesSettings = SamplesSettings()
    optim: AdamW = AdamW()
    schedule: Schedule = CosineSchedule()
    trainer: TrainerSettings
    parallel: Parallel = SingleDevice()
    logger: Logger = CsvLogger()
    seed: Seed = 0  # of the data order and of every random number
    resume: FilePath = "never"  # never; auto: the newest valid state in output_dir; or the path of a state
    output_dir: FilePath | None = None  # the run folder; null: runs/<recipe>/<time>
    run_name: Text | None = None  # shown by loggers; null: the name of the run folder


CHOICES: dict[str, dict[str, type]] = {
    "model": {"glm": GlmModelSettings},
    "task": {
        "chat": ChatTask,
        "sequence_classification": SequenceClassification,
        "token_classification": TokenClassification,
    },
    "data": {"chat": ChatData, "sequence": SequenceData, "tokens": TokenData},
    "adapter": {"none": NoAdapter, "lora": LoraAdapter, "qlora": QloraAdapter},
    "optim": {"adamw": AdamW},
    "schedule": {
        "cosine": CosineSchedule,
        "linear": LinearSchedule,
        "constant": ConstantSchedule,
        "wsd": WsdSchedule,
    },
    "trainer": {"default": TrainerSettings},
    "parallel": {"single": SingleDevice, "ddp": DataParallel, "fsdp": FullySharded, "hsdp": HybridSharded},
    "logger": {"none": NoLogger, "csv": CsvLogger, "wandb": WandbLogger, "tensorboard": TensorBoardLogger},
}

SECTIONS: dict[str, type] = {"batch": BatchSettings, "samples": SamplesSettings}
