"""What can be known to go wrong is found before anything is queued, all of it at once, each with its way out."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from hrm_lab.config import Config, ModelConfig, TrackingConfig
from hrm_lab.errors import ConfigError, UserError
from hrm_lab.launchers import KEY, SlurmLauncherConfig
from hrm_lab.sweep import slurm
from hrm_lab.sweep.slurm import Partition
from hrm_lab.tracking import access
from hrm_lab.tracking.store import refuse_silent_server, tracking_uri

GIB = 2**30
SPARE_BYTES = GIB  # left free on the disk


def check(configs: Sequence[Config], launcher: SlurmLauncherConfig, tasks: int) -> None:
    """Refuse a sweep that cannot run as it is.

    Args:
        configs: of the points that are to be run.
        tasks: array tasks that they make.

    Raises:
        UserError: naming everything that was found.
    """
    outputs = Path(configs[0].paths.outputs).resolve()
    _refuse(
        lambda: _tracking(configs[0].tracking, outputs),
        lambda: _writable(outputs),
        lambda: _room(configs, outputs),
        lambda: _cluster(launcher, tasks),
    )


def check_job(tracking: TrackingConfig, outputs: Path, launcher: SlurmLauncherConfig) -> None:
    """The same for a single job that is no point of a sweep.

    Raises:
        UserError: naming everything that was found.
    """
    _refuse(
        lambda: _tracking(tracking, outputs),
        lambda: _writable(outputs),
        lambda: _cluster(launcher, 1),
    )


def _refuse(*looks: Callable[[], Iterator[UserError]]) -> None:
    found = [problem for look in looks for problem in _problems(look)]
    if found:
        raise UserError("\n".join(found))


def _problems(look: Callable[[], Iterator[UserError]]) -> Iterator[str]:
    try:
        yield from (str(error) for error in look())
    except UserError as error:
        yield str(error)


def _tracking(config: TrackingConfig, outputs: Path) -> Iterator[UserError]:
    if not config.enabled:
        return
    uri = tracking_uri(config, outputs)
    way_out = "`make server HOST=ADDRESS`, one that the nodes reach; tracking.uri=http://ADDRESS:5000; or tracking=none"
    if not uri.startswith("http"):
        yield ConfigError("tracking.uri", uri, "jobs on several nodes cannot share a file", way_out)
    elif access.is_loopback(urlsplit(uri).hostname or ""):
        yield ConfigError("tracking.uri", uri, "is another machine on every node", way_out)
    else:
        refuse_silent_server(config)
        yield from access.problems(config, uri)


def _writable(outputs: Path) -> Iterator[UserError]:
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=outputs):
            pass
    except OSError as error:
        yield ConfigError(
            "paths.outputs", outputs, f"cannot be written ({error.strerror})", "take a folder that the nodes share"
        )


def _room(configs: Sequence[Config], outputs: Path) -> Iterator[UserError]:
    existing = next(folder for folder in (outputs, *outputs.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    needed = sum(bytes_of_run(config) for config in configs)
    if needed + SPARE_BYTES > free:
        yield ConfigError(
            "paths.outputs",
            outputs,
            f"{len(configs)} runs leave about {needed / GIB:.2f} GiB and one more should stay free, of which there are "
            f"{free / GIB:.2f}",
            "take another disk, training.keep_checkpoints=1, or fewer points",
        )


def bytes_of_run(config: Config) -> int:
    """About how much a run leaves: its checkpoints (one more while it is being written) and two sets of weights."""
    parameters = count_parameters(config.model)
    moments = 3 * 4 * parameters  # the weights and AdamATan2's two moments, in float32
    slots = config.training.global_batch_size
    carry = 2 * 4 * slots * 100 * config.model.hidden_size  # two latents of about a hundred tokens for each slot
    return (_kept_checkpoints(config) + 1) * (moments + carry) + 2 * 4 * parameters


def _kept_checkpoints(config: Config) -> int:
    training = config.training
    kept = training.keep_checkpoints + training.keep_best_checkpoint
    if training.keep_checkpoint_every is not None:
        steps = training.epochs * (config.data.num_train_groups() or 0) // training.global_batch_size
        kept += steps // training.keep_checkpoint_every
    return kept


def count_parameters(model: ModelConfig) -> int:
    """Weights of the blocks, which is nearly all of them."""
    inner = -(-round(model.expansion * model.hidden_size * 2 / 3) // 256) * 256
    block = 4 * model.hidden_size**2 + 3 * model.hidden_size * inner
    return (model.H_layers + model.L_layers) * block


def _cluster(launcher: SlurmLauncherConfig, tasks: int) -> Iterator[UserError]:
    yield from _account(launcher)
    yield from _limits(launcher, tasks)
    known = slurm.partitions()
    default = next((name for name, partition in known.items() if partition.is_default), None)
    asked = launcher.partition or default
    if asked is None:
        yield ConfigError(f"{KEY}partition", None, "the cluster has no default", f"one of {', '.join(known)}")
        return
    for name in asked.split(","):  # SLURM takes the first that has room
        if name in known:
            yield from _partition(launcher, known[name])
        else:
            yield ConfigError(f"{KEY}partition", name, "no such partition", f"one of {', '.join(known)}")


def _partition(launcher: SlurmLauncherConfig, partition: Partition) -> Iterator[UserError]:
    name = partition.name
    if not partition.is_up:
        yield ConfigError(f"{KEY}partition", name, "is not up", "see `sinfo`, or take another one")
    if launcher.time_min > partition.max_time_min:
        limit = int(partition.max_time_min)
        yield ConfigError(
            f"{KEY}time_min",
            launcher.time_min,
            f"partition {name} allows {limit} minutes",
            f"take {limit} or less; a run that needs longer goes on in the next job",
        )
    if launcher.nodes > partition.nodes:
        yield ConfigError(f"{KEY}nodes", launcher.nodes, f"{name} has {partition.nodes}", "take fewer")
    yield from _nodes(launcher, name)


def _nodes(launcher: SlurmLauncherConfig, partition: str) -> Iterator[UserError]:
    """Whether any node could hold a task at all."""
    nodes = [node for node in slurm.nodes() if node.partition == partition]
    cores = launcher.cpus_per_task * launcher.tasks_per_node
    most = max((node.cpus for node in nodes), default=0)
    if cores > most:
        yield ConfigError(
            f"{KEY}cpus_per_task",
            launcher.cpus_per_task,
            f"with tasks_per_node={launcher.tasks_per_node} is {cores} cores of a node; {partition}'s have {most}",
            "take fewer",
        )
    memory = max((node.memory_mb for node in nodes), default=0)
    if launcher.mem_gb is not None and launcher.mem_gb * 1024 > memory:
        yield ConfigError(
            f"{KEY}mem_gb", launcher.mem_gb, f"{partition}'s nodes have {memory / 1024:.1f} GB", "take less"
        )
    if launcher.gres and not any(_offers(node.gres, launcher.gres) for node in nodes):
        offered = sorted({node.gres for node in nodes if node.gres != "(null)"})
        yield ConfigError(
            f"{KEY}gres",
            launcher.gres,
            f"no node of {partition} has that",
            f"one of {', '.join(offered)} or less" if offered else "take hydra.launcher.gres=null",
        )


def _offers(offered: str, wanted: str) -> bool:
    """Whether a node's gres (`gpu:a100:4(S:0-1),gpu:2`) holds what is asked for (`gpu`, `gpu:2`, `gpu:a100:2`)."""
    name, kind, count = _gres(wanted)
    available = [_gres(text) for text in re.sub(r"\([^)]*\)", "", offered).split(",")]
    return any(other[0] == name and kind in ("", other[1]) and other[2] >= count for other in available)


def _gres(text: str) -> tuple[str, str, int]:
    name, *rest = text.split(":")
    count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
    return name, rest[0] if rest else "", count


def _account(launcher: SlurmLauncherConfig) -> Iterator[UserError]:
    if launcher.account is None:
        return
    known = slurm.accounts()
    if known is not None and launcher.account not in known:
        yield ConfigError(f"{KEY}account", launcher.account, "no such account", f"one of {', '.join(known)}")


def _limits(launcher: SlurmLauncherConfig, tasks: int) -> Iterator[UserError]:
    config = slurm.settings()
    limit = int(config.get("MaxJobCount", "10000"))
    queued = slurm.tasks_in_queue()
    if queued + tasks + 1 > limit:
        fit = max(1, -(-tasks * launcher.points_per_job // max(1, limit - queued - 1)))
        yield ConfigError(
            f"{KEY}points_per_job",
            launcher.points_per_job,
            f"makes {tasks} jobs, and the cluster takes {limit} at once (MaxJobCount), {queued} of them queued now",
            f"take {fit} or more" if limit - queued > 1 else "wait until the queue is shorter",
        )
