"""The typed settings: every key with its unit, default and range. One home for each.

Plain dataclasses: this module imports nothing of Hydra, torch or MLflow, and everything may read it.
Hydra composes YAML from `conf/` against these classes; `from_dict` reads a resolved config back without Hydra.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Optional

from hrm_lab.errors import ConfigError

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045


@dataclass(frozen=True)
class Setting:
    """What is known of one key besides its type and default."""

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    identity: bool = True  # False: cannot change the result, so it is no part of a run's signature


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    identity: bool = True,
) -> Any:
    """A dataclass field that carries its unit, range and description.

    `low` and `high` are both inclusive.
    """
    meta = Setting(help, unit, low, high, choices, identity)
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"setting": meta})
    return field(default=default, metadata={"setting": meta})


@dataclass
class ModelConfig:
    """HRM with adaptive computation time (HRM_SPEC section 1; Wang et al. 2025, "Hierarchical Reasoning Model")."""

    H_cycles: int = setting(2, "high-level updates per ACT step", unit="cycles", low=1)
    L_cycles: int = setting(2, "low-level updates per high-level update", unit="cycles", low=1)
    H_layers: int = setting(4, "transformer blocks in the high-level module", unit="blocks", low=1)
    L_layers: int = setting(4, "transformer blocks in the low-level module", unit="blocks", low=1)
    hidden_size: int = setting(512, "width of the residual stream; a multiple of num_heads", unit="channels", low=2)
    num_heads: int = setting(8, "attention heads", unit="heads", low=1)
    expansion: float = setting(4.0, "SwiGLU expansion; its width is rounded up to a multiple of 256", low=0.001)
    puzzle_emb_ndim: int = setting(512, "width of the per-puzzle embedding; 0 = none", unit="channels", low=0)
    pos_encodings: str = setting("rope", "position encoding", choices=("rope", "learned"))
    rope_theta: float = setting(10000.0, "base of the rotary frequencies", low=1.0)
    rms_norm_eps: float = setting(1e-5, "epsilon inside RMSNorm", low=1e-12)
    halt_max_steps: int = setting(16, "ACT steps (segments) a sequence may take", unit="steps", low=1)
    halt_exploration_prob: float = setting(0.1, "share of slots given a random minimum of steps", low=0.0, high=1.0)
    loss_type: str = setting(
        "stablemax_cross_entropy",
        "token loss",
        choices=("stablemax_cross_entropy", "softmax_cross_entropy"),
    )
    forward_dtype: str = setting(
        "bfloat16", "arithmetic of the forward pass; master weights stay float32", choices=("bfloat16", "float32")
    )


@dataclass
class DataConfig:
    """What every task's dataset has. Each task adds its own settings in a subclass, in its file of data/tasks/."""

    task: str = setting("sudoku", "which task it is: a file of hrm_lab/data/tasks/")
    name: str = setting("dataset", "name of the dataset; its folder is NAME-HASH under paths.data", identity=False)
    num_augmentations: int = setting(
        0, "augmented variants of each training puzzle (k); an epoch draws one of 1 + k", unit="variants", low=0
    )

    eval_metrics: ClassVar[tuple[str, ...]] = ()  # the task's own, beside EVAL_METRICS
    not_built_in: ClassVar[tuple[str, ...]] = ("num_augmentations",)  # settings that the stored bytes do not depend on

    def check(self) -> None:
        """Refuse combinations that cannot be built; ranges and choices are checked already.

        Raises:
            ConfigError: for the first one found.
        """

    def files(self) -> dict[str, str | None]:
        """Paths by setting, whose content (not name) is part of what the dataset is."""
        return {}

    def found_facts(self) -> dict[str, Any]:
        """What decides the dataset's bytes besides settings and files, as it is found here: versions, folders.

        Raises:
            DataError: when it cannot be found.
        """
        return {}

    def num_train_groups(self) -> int | None:
        """Training groups (puzzles before augmentation), where they are known before anything is built."""
        return None

    def num_test_variants(self) -> int:
        """Variants of each test puzzle that an evaluation looks at, itself included."""
        return 1


@dataclass
class OptimConfig:
    """AdamATan2 for the weights, sign-SGD for the puzzle embedding (HRM_SPEC section 4)."""

    lr: float = setting(1e-4, "peak learning rate of AdamATan2", low=0.0)
    lr_warmup_steps: int = setting(2000, "linear warm-up from 0", unit="optimizer steps", low=0)
    lr_min_ratio: float = setting(1.0, "end of the cosine decay as a share of lr; 1 = constant", low=0.0, high=1.0)
    beta1: float = setting(0.9, "decay of the first moment", low=0.0, high=0.999999)
    beta2: float = setting(0.95, "decay of the second moment", low=0.0, high=0.999999)
    weight_decay: float = setting(0.1, "decoupled weight decay of every parameter", low=0.0)
    puzzle_emb_lr: float = setting(1e-2, "peak learning rate of the puzzle embedding", low=0.0)
    puzzle_emb_weight_decay: float = setting(0.1, "weight decay of the touched embedding rows", low=0.0)
    backend: str = setting(
        "torch",
        "who computes AdamATan2: our torch rule, or the fused CUDA package adam-atan2 (extra 'fused')",
        choices=("torch", "fused"),
    )


@dataclass
class TrainingConfig:
    """The loop: how long, how much at once, on what, and how often it looks up (HRM_SPEC section 5)."""

    epochs: int = setting(20000, "times each training group is visited; a multiple of eval_interval", low=1)
    eval_interval: int = setting(2000, "epochs between evaluations (each followed by a checkpoint)", low=1)
    global_batch_size: int = setting(768, "carried sequences over all processes", unit="sequences", low=1)
    gradient_accumulation_steps: int = setting(1, "parts that a process's batch is computed in", low=1)
    eval_batch_size: Optional[int] = setting(
        None, "test sequences at once over all processes; null = global_batch_size", unit="sequences", low=1
    )
    eval_puzzles: Optional[int] = setting(
        None,
        "test puzzles (groups of each set, the same for every seed) that evaluations on the way look at; the end of "
        "the run is then judged once on all; null = all, always",
        unit="puzzles",
        low=1,
    )
    eval_first: bool = setting(False, "evaluate before the first step too", identity=False)
    shown_puzzles: int = setting(
        4, "test puzzles that each evaluation shows step by step", unit="puzzles", low=0, identity=False
    )
    device: str = setting("auto", "auto = cuda where there is one, else cpu", choices=("auto", "cpu", "cuda"))
    execution: str = setting(
        "auto",
        "how a step is computed: eager; compiled by torch; captured = compiled and taken whole as a CUDA graph; "
        "auto = captured on CUDA, eager on a CPU. They differ by rounding",
        choices=("auto", "eager", "compiled", "captured"),
    )
    gradient_dtype: str = setting(
        "float32",
        "what gradients are sent and summed in where several processes train; bfloat16 is half as much to send, and "
        "rounds it",
        choices=("float32", "bfloat16"),
    )
    threads: int = setting(1, "CPU threads of one process", unit="threads", low=1, identity=False)
    log_interval: int = setting(
        10, "steps that one logged training value is averaged over", unit="steps", low=1, identity=False
    )
    checkpoint_interval: Optional[int] = setting(
        None, "steps between checkpoints besides those at evaluations; null = none", unit="steps", low=1, identity=False
    )
    keep_checkpoints: int = setting(2, "newest checkpoints kept", unit="checkpoints", low=1, identity=False)
    keep_best_checkpoint: bool = setting(
        True, "keep that of the best evaluation too (its weights alone are always kept)", identity=False
    )
    keep_checkpoint_every: Optional[int] = setting(
        None, "keep the first at or after each multiple of this too; null = none", unit="steps", low=1, identity=False
    )
    peak_flops: Optional[float] = setting(
        None,
        "peak of one device, which perf/mfu is a share of; null = by its name, where that is known",
        unit="FLOP/s",
        low=1.0,
        identity=False,
    )
    profile: bool = setting(
        False, "look at a few steps with torch's profiler: a trace and a table among the artifacts", identity=False
    )
    deterministic: bool = setting(
        False, "on CUDA: only algorithms that give the same bits every time (on a CPU always)", identity=False
    )


@dataclass
class TrackingConfig:
    """Where runs are logged. Nothing here changes a result."""

    enabled: bool = setting(True, "log to MLflow", identity=False)
    uri: Optional[str] = setting(
        None,
        "MLflow tracking URI; null = MLFLOW_TRACKING_URI, else a SQLite file in paths.outputs, made when missing",
        identity=False,
    )
    experiment: str = setting("hrm-lab", "MLflow experiment", identity=False)
    allow_open_server: bool = setting(
        False,
        "a tracking server without a password is accepted: only on a network that nobody else reaches",
        identity=False,
    )
    system_interval: Optional[float] = setting(
        10.0,
        "pause between looks at CPU, memory and GPU; null = none",
        unit="s",
        low=0.1,
        identity=False,
    )
    flush_interval: float = setting(2.0, "pause between batches sent to MLflow", unit="s", low=0.05, identity=False)
    drain_timeout: float = setting(
        60.0, "longest wait at a run's end for the store to take the rest", unit="s", low=0.0, identity=False
    )


EVAL_METRICS = ("exact_accuracy", "accuracy", "q_halt_accuracy", "steps", "lm_loss", "q_halt_loss")
TRAIN_METRICS = (*EVAL_METRICS, "q_continue_loss")
TRAIN_MEAN = "train_mean/"  # the training's mean since the evaluation before, which `train/`, of a log window, is not
TRAINED = f"{TRAIN_MEAN}exact_accuracy"
# Whole test sets at the end, where training.eval_puzzles saw a part on the way: of the last weights, and of the best.
FINAL, FINAL_BEST = "final/", "final_best/"

PRUNERS = ("none", "asha", "median", "percentile")
# Which of them read a setting: to the others it would say nothing, and yet be part of the signature.
READ_BY = {
    "grace_steps": PRUNERS[1:],
    "min_peers": PRUNERS[1:],
    "pruner_patience": PRUNERS[1:],
    "reduction_factor": ("asha",),
    "brackets": ("asha",),
    "percentile": ("percentile",),
    "peers": ("median", "percentile"),
}


@dataclass
class StoppingConfig:
    """When a run ends before its last epoch. Divergence (a loss or gradient that is no number) always ends it."""

    metric: str = setting(
        "eval/exact_accuracy",
        "watched at each evaluation: eval/METRIC, eval/SET/METRIC of one of several test sets, or train_mean/METRIC, "
        "the training's mean since the evaluation before; the best weights are those of its best value",
    )
    mode: str = setting("max", "whether more or less of the metric is better", choices=("max", "min"))
    patience: Optional[int] = setting(
        None, "evaluations without improvement after which to stop; null = never", unit="evaluations", low=1
    )
    min_delta: float = setting(0.0, "improvement that counts", low=0.0)
    goal: Optional[float] = setting(None, "stop as soon as the metric is this good; null = never")
    overfit_accuracy: Optional[float] = setting(
        None,
        "train_mean/exact_accuracy from which on a falling evaluation is overfitting; null = never stop for it",
        low=0.0,
        high=1.0,
    )
    overfit_drop: float = setting(0.02, "how far the metric must be below its best, to count as falling", low=0.0)
    overfit_evaluations: int = setting(2, "falling evaluations in a row that stop", unit="evaluations", low=1)
    max_steps: Optional[int] = setting(None, "budget; null = no limit", unit="optimizer steps", low=1)
    max_hours: Optional[float] = setting(
        None, "budget of wall time over all attempts, as the checkpoints know it; null = no limit", unit="h", low=0.0
    )
    max_gpu_hours: Optional[float] = setting(
        None,
        "budget of GPU time over all attempts, as the checkpoints know it; null = no limit",
        unit="GPU h",
        low=0.0,
    )
    pruner: str = setting(
        "none", "rule that compares a run with its siblings of the sweep after each evaluation", choices=PRUNERS
    )
    grace_steps: Optional[int] = setting(
        None,
        "no comparison before this step; the first rung of asha; null = the first evaluation",
        unit="optimizer steps",
        low=1,
    )
    min_peers: int = setting(3, "siblings with a value at the rung, below which nobody is stopped", low=1)
    peers: str = setting(
        "reached",
        "median, percentile: which siblings count: all that reached the step, or only those that have finished",
        choices=("reached", "finished"),
    )
    reduction_factor: int = setting(4, "asha: a rung is this many times the one before; one in so many goes on", low=2)
    brackets: int = setting(1, "asha: groups of runs that compete apart, each with a longer first rung", low=1)
    percentile: float = setting(50.0, "percentile: the best share that goes on", unit="%", low=0.0, high=100.0)
    pruner_patience: Optional[int] = setting(
        None,
        "evaluations without improvement that a run must show before siblings may stop it; null = none",
        unit="evaluations",
        low=0,
    )
    ask_timeout: float = setting(
        10.0,
        "longest wait for the siblings' values; without them a run goes on",
        unit="s",
        low=0.0,
        high=300.0,
        identity=False,
    )


@dataclass
class PathsConfig:
    """Folders, relative to where the command is run."""

    outputs: str = setting("outputs", "runs, sweeps, pictures and the default MLflow store", identity=False)
    data: str = setting("data", "built datasets", identity=False)


@dataclass
class Config:
    """All of one run."""

    name: str = setting("run", "name of the sweep or run, in file names and in MLflow", identity=False)
    question: str = setting("", "what this experiment is to answer, in words", identity=False)
    seed: int = setting(0, "seed of initialisation, data order, augmentation and exploration", low=0, high=2**31 - 1)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=lambda: task_settings("sudoku")())
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


_TASKS = Path(__file__).parent / "data" / "tasks"


def task_names() -> list[str]:
    """Every task there is: the files of data/tasks/."""
    return sorted(name for _, name, _ in pkgutil.iter_modules([str(_TASKS)]))


def task_settings(task: str) -> type[DataConfig]:
    """The settings of a task. Its file is imported by name only here and now, so that this module knows no task.

    Raises:
        ConfigError: when there is none of that name.
    """
    if task not in task_names():
        raise ConfigError("data.task", task, "no such task", f"one of {', '.join(task_names())}")
    kind: type[DataConfig] = importlib.import_module(f"hrm_lab.data.tasks.{task}").TASK.settings
    return kind


def known_settings(task: str) -> type[DataConfig]:
    """The settings of a task; of one that this version does not know, those that every task has."""
    return task_settings(task) if task in task_names() else DataConfig


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Setting]]:
    """Yield (dotted key, value, Setting) for every leaf of a config."""
    for item in dataclasses.fields(config):
        value, key = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{key}.")
        elif "setting" in item.metadata:
            yield key, value, item.metadata["setting"]


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain nested dictionaries, for JSON and YAML."""
    return dataclasses.asdict(config)


def identity_dict(config: Config) -> dict[str, Any]:
    """Only the settings that can change a result, as {dotted key: value}: what a run's signature hashes."""
    return {key: value for key, value, meta in settings(config) if meta.identity}


def from_dict(values: Mapping[str, Any], kind: type[Any] = Config, prefix: str = "") -> Any:
    """Build a config from nested dictionaries, refusing unknown keys and wrong types.

    Raises:
        ConfigError: naming the key, its value and the way out.
    """
    if kind is DataConfig:
        kind = task_settings(values.get("task", "sudoku"))
    hints, known = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in known:
            raise unknown_key(key, value, [f"{prefix}{other}" for other in known])
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(key, value, "is a group of settings, not a value", f"set {key}.KEY=VALUE")
            arguments[name] = from_dict(value, typing.cast(type[Any], hint), f"{key}.")
        else:
            arguments[name] = _convert(key, value, hint)
    return kind(**arguments)


def unknown_key(key: str, value: object, known: list[str]) -> ConfigError:
    """The error for a key that is not there, with the nearest one that is."""
    spelled = {other.lower(): other for other in known}
    near = difflib.get_close_matches(key.lower(), spelled, n=1, cutoff=0.8)
    hint = f"did you mean {spelled[near[0]]}? " if near else ""
    return ConfigError(key, value, "no such key", f"{hint}`hrm-lab config` lists every key")


def _convert(key: str, value: Any, hint: Any) -> Any:
    """Check a leaf's type; an int is taken where a float is asked for."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(key, value, f"is {type(value).__name__}, not {hint.__name__}", f"give a {hint.__name__}")
    return value
