"""What a config cannot be: values out of range, and combinations that cannot be run.

Refused with an error that names the key, the value and the way out, before anything is built or submitted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from hrm_lab.config import (
    EVAL_METRICS,
    READ_BY,
    TRAIN_MEAN,
    TRAIN_METRICS,
    TRAINED,
    Config,
    StoppingConfig,
    TrainingConfig,
    settings,
)
from hrm_lab.errors import ConfigError, require
from hrm_lab.redaction import redacted


def validate(config: Config) -> None:
    """Refuse values out of range and combinations that cannot be run.

    Raises:
        ConfigError: for the first one found.
    """
    check_ranges(config)
    model, training = config.model, config.training
    require(
        model.hidden_size % model.num_heads == 0,
        "model.num_heads",
        model.num_heads,
        f"does not divide model.hidden_size={model.hidden_size}",
        "take another model.hidden_size, or model.num_heads from "
        + ", ".join(str(n) for n in range(1, 33) if model.hidden_size % n == 0 and model.hidden_size // n % 2 == 0),
    )
    require(
        model.pos_encodings != "rope" or (model.hidden_size // model.num_heads) % 2 == 0,
        "model.num_heads",
        model.num_heads,
        f"rotary encoding needs an even head size, not {model.hidden_size // model.num_heads}",
        "change model.num_heads or model.hidden_size, or take model.pos_encodings=learned",
    )
    require(
        training.epochs % training.eval_interval == 0,
        "training.epochs",
        training.epochs,
        f"is not a multiple of training.eval_interval={training.eval_interval}",
        f"take training.epochs={math.ceil(training.epochs / training.eval_interval) * training.eval_interval}",
    )
    require(
        training.global_batch_size % training.gradient_accumulation_steps == 0,
        "training.global_batch_size",
        training.global_batch_size,
        f"cannot be cut into training.gradient_accumulation_steps={training.gradient_accumulation_steps} equal parts",
        "take a divisor of the batch size",
    )
    require(
        config.optim.backend != "fused" or training.device != "cpu",
        "optim.backend",
        config.optim.backend,
        "its kernels need CUDA, and training.device=cpu",
        "take optim.backend=torch, the same rule",
    )
    check_execution(training, training.device)
    _validate_stopping(config)
    config.data.check()
    groups = config.data.num_train_groups()
    if groups is not None:
        check_steps(groups, training)


def _validate_stopping(config: Config) -> None:
    stopping = config.stopping
    require(
        _is_metric(stopping.metric, config.data.eval_metrics),
        "stopping.metric",
        stopping.metric,
        "is no metric that an evaluation or the training logs",
        ", ".join(f"eval/{metric}" for metric in (*EVAL_METRICS, *config.data.eval_metrics))
        + ", the same of one test set as eval/SET/METRIC, or the training's mean since the evaluation before, "
        + ", ".join(f"{TRAIN_MEAN}{metric}" for metric in TRAIN_METRICS),
    )
    require(
        stopping.overfit_accuracy is None or stopping.metric.startswith("eval/"),
        "stopping.overfit_accuracy",
        stopping.overfit_accuracy,
        f"overfitting is a falling evaluation, and stopping.metric={stopping.metric} is of training",
        "take stopping.metric=eval/exact_accuracy, or stopping.overfit_accuracy=null",
    )
    check_gpu_budget(stopping, config.training.device)
    defaults = StoppingConfig()
    for key, pruners in READ_BY.items():
        require(
            stopping.pruner in pruners or getattr(stopping, key) == getattr(defaults, key),
            f"stopping.{key}",
            getattr(stopping, key),
            f"says nothing to stopping.pruner={stopping.pruner}",
            f"leave it out, or take stopping.pruner={' or '.join(pruners)}",
        )


def _is_metric(name: str, of_the_task: Collection[str]) -> bool:
    evaluated, trained = "|".join(map(re.escape, (*EVAL_METRICS, *of_the_task))), "|".join(TRAIN_METRICS)
    return re.fullmatch(rf"eval/([^/]+/)?({evaluated})|{TRAIN_MEAN}({trained})", name) is not None


def watched(stopping: StoppingConfig) -> set[str]:
    """The metrics that rules look at."""
    return {stopping.metric} if stopping.overfit_accuracy is None else {stopping.metric, TRAINED}


def check_gpu_budget(stopping: StoppingConfig, device: str) -> None:
    """Refuse a budget that would never be spent.

    Args:
        device: `cpu`, `cuda`, or `auto` where that is not known yet.

    Raises:
        ConfigError: on a machine without a GPU.
    """
    require(
        stopping.max_gpu_hours is None or device != "cpu",
        "stopping.max_gpu_hours",
        stopping.max_gpu_hours,
        "would never be spent on the CPU",
        "take stopping.max_hours",
    )


def check_execution(training: TrainingConfig, device: str) -> None:
    """Refuse CUDA graphs where there is no CUDA.

    Args:
        device: `cpu`, `cuda`, or `auto` where that is not known yet.

    Raises:
        ConfigError: on a machine without a GPU.
    """
    require(
        training.execution != "captured" or device != "cpu",
        "training.execution",
        training.execution,
        "is a CUDA graph, and the run is on the CPU",
        "take training.execution=compiled, or eager",
    )


def check_metric(stopping: StoppingConfig, test_sets: Collection[str]) -> None:
    """Refuse to watch a test set that is not there: its metric would be missing for ever, and decide nothing.

    Raises:
        ConfigError: naming the test sets.
    """
    _, *test_set, metric = stopping.metric.split("/")
    logged = test_sets if len(test_sets) > 1 else ()
    require(
        not test_set or test_set[0] in logged,
        "stopping.metric",
        stopping.metric,
        f"the dataset's test sets are: {', '.join(test_sets)}",
        "one of " + ", ".join([f"eval/{metric}", *(f"eval/{name}/{metric}" for name in logged)]),
    )


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check each leaf against its own range and choices."""
    for key, value, meta in settings(config, prefix):
        if value is None:
            continue
        refuse_secret(key, value)
        if meta.choices and value not in meta.choices:
            raise ConfigError(key, value, "no such choice", f"one of {', '.join(meta.choices)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(key, value, "is not a finite number", "give a number")
        if meta.low is not None and value < meta.low:
            raise ConfigError(key, value, f"is below {meta.low:g}", f"{meta.help}: {meta.low:g} or more")
        if meta.high is not None and value > meta.high:
            raise ConfigError(key, value, f"is above {meta.high:g}", f"{meta.help}: at most {meta.high:g}")


def refuse_secret(key: str, value: object) -> None:
    """A setting is written into files, params and scripts that many can read.

    Raises:
        ConfigError: for a value that holds a secret, or looks like it; the error does not show it.
    """
    shown = redacted({key: value})[key]
    if str(shown) != str(value):  # a NaN is not even equal to itself
        raise ConfigError(
            key,
            shown,
            "holds what looks like a secret, and every file and param of the run would show it",
            "leave it out; what a run needs of that kind comes from environment variables or a file of its user",
        )


def check_steps(num_groups: int, training: TrainingConfig) -> None:
    """Refuse a run whose evaluation interval holds less than one batch (it would never train).

    Args:
        num_groups: training groups (puzzles before augmentation).
    """
    require(
        training.eval_interval * num_groups >= training.global_batch_size,
        "training.global_batch_size",
        training.global_batch_size,
        f"is more than training.eval_interval={training.eval_interval} epochs of {num_groups} training puzzles hold, "
        "so no step would ever be taken",
        f"take training.eval_interval={math.ceil(training.global_batch_size / num_groups)} or more, or a smaller batch",
    )


def check_world_size(training: TrainingConfig, world_size: int) -> None:
    """Refuse batches that cannot be cut into equal parts.

    Raises:
        ConfigError: naming the batch and the number of processes.
    """
    parts = world_size * training.gradient_accumulation_steps
    sizes = {"training.global_batch_size": (training.global_batch_size, parts)}
    if training.eval_batch_size is not None:
        sizes["training.eval_batch_size"] = (training.eval_batch_size, world_size)
    for key, (size, divisor) in sizes.items():
        if size % divisor:
            raise ConfigError(
                key,
                size,
                f"cannot be cut into {divisor} equal parts ({world_size} processes, "
                f"gradient_accumulation_steps={training.gradient_accumulation_steps})",
                f"take a multiple of {divisor}",
            )
