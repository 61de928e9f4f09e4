"""Checkpoints: all that the next step needs, written in the background while training goes on.

A save copies the state to host memory (that is all the training waits for) and hands it on to torch's
distributed.checkpoint, which writes one safetensors file for each process into a folder with a temporary name. The main
process then writes the manifest (plain values, and size and SHA-256 of every file), renames the folder, and last the
pointer `newest.json`. A process may be killed anywhere in between. Nothing here is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import itertools
import json
import logging
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrm_lab.config import TrainingConfig
from hrm_lab.errors import PeerLost, RunError, one_line
from hrm_lab.files import fsync, write_json
from hrm_lab.model.interop import save_weights
from hrm_lab.training.distributed import Ranks, is_about_a_peer

log = logging.getLogger(__name__)
DCP = "torch.distributed.checkpoint"  # takes half a second to import, so it is imported where nobody waits for it
MANIFEST, POINTER = "manifest.json", "newest.json"
NAME = re.compile(r"step_(\d+)(?:-(\d+))?")
UNFINISHED = ".saving_"  # how a folder's name begins until it is whole, and again when it is being removed
PEER_S = 10.0  # how long an end waits for a save that other processes take part in
TENSOR, ROWS = "__tensor__", "__rows__"  # what stands in a manifest where the state has a tensor
State = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """This process's rows of a tensor that is cut over all processes; loaded, it is the whole tensor again."""

    tensor: Tensor


class Checkpoints:
    """The checkpoints of one run, in FOLDER/checkpoints. Every process has one and calls it at the same steps.

    Args:
        folder: of the run.
        training: which checkpoints are kept.
        check: called on the main process right before anything gets its name; raises when nothing may be written.
    """

    def __init__(self, folder: Path, training: TrainingConfig, ranks: Ranks, check: Callable[[], None]) -> None:
        self.folder = folder / "checkpoints"
        self.training, self.ranks, self.check = training, ranks, check
        self.begun = 0  # saves that were handed over, and
        self._written = 0  # those of them that lie on the disk
        self._group = ranks.new_cpu_group()  # of its own, so that a save in the background takes nobody's turn
        # A replaced attempt may still be writing the same step, so each attempt has a name of its own.
        self._token = ranks.broadcast(uuid.uuid4().hex[:12], self._group)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._jobs: list[Future[None]] = [self._worker.submit(_load_library)]
        self._saving: Future[None] | None = None
        self._broken: BaseException | None = None  # weights that could not be written
        self._stager: Any = None
        self._staged: set[str] = set()

    # ------------------------------------------------------------------------------------------- writing

    @property
    def written(self) -> int:
        """How many saves are on the disk; fewer than `begun` while one is being written.

        Raises:
            RunError: when one could not be written.
        """
        while self._jobs and self._jobs[0].done():
            self._jobs.pop(0).result()
        return self._written

    def save(self, step: int, best_step: int | None, state: State, sync: Callable[[], None]) -> None:
        """Copy the state and have it written. Waits for an earlier save to be written first.

        Args:
            step, best_step: of the state, and of its best evaluation.
            state: nested dictionaries of tensors, Rows and plain JSON values; the same on every process but for Rows.
            sync: called before the checkpoint gets its name: what it refers to must be on the disk by then.
        """
        if self._saving is not None:
            self._saving.result()
        dcp = importlib.import_module(DCP)
        tensors: dict[str, Tensor] = {}
        tree = _take_apart(state, "", tensors, self.ranks.rank)
        target = self.folder / f"{UNFINISHED}{step:08d}_{self._token}"
        try:
            target.mkdir(parents=True, exist_ok=True)
            writer = dcp.HuggingFaceStorageWriter(str(target), save_distributed=True)
            writer.per_thread_copy_ahead = 0  # all is on the host already: its thread has no business with a GPU
            upload = dcp.async_save(
                tensors,
                storage_writer=writer,
                async_stager=self._staging(set(tensors)),
                process_group=self._group,
                no_dist=self.ranks.world_size == 1,
            )
        except OSError as error:
            raise self._unwritable(step, error, target) from error
        self.begun += 1
        facts = {"step": step, "world_size": self.ranks.world_size, "best_step": best_step, "state": tree}
        self._saving = self._worker.submit(self._publish, upload, target, facts, sync)
        self._jobs.append(self._saving)

    def keep_weights(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Copy weights and have them written as safetensors; no later save gets its name before they are there."""
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
        self._jobs.append(self._worker.submit(self._write_weights, copies, path))

    def wait(self) -> None:
        """Until everything is written."""
        while self._jobs:
            self._jobs.pop(0).result()

    def close(self) -> None:
        """Let what is under way end, and say nothing of it: something worse is on its way to the user."""
        # One of several processes may wait in vain for the others.
        wait(self._jobs, timeout=None if self.ranks.world_size == 1 else PEER_S)
        self._worker.shutdown(wait=self.ranks.world_size == 1, cancel_futures=True)

    def _staging(self, names: set[str]) -> Any:
        """On a GPU the host's copy is pinned and used again; on a CPU it is made anew for each save."""
        if self._stager is None or self._staged != names:  # an optimizer has no moments before the first gradient
            staging = importlib.import_module(f"{DCP}.staging")
            self._stager = staging.BlockingAsyncStager(cache_staged_state_dict=self.ranks.device.type == "cuda")
            self._staged = names
        return self._stager

    def _publish(self, upload: Future[Any], target: Path, facts: State, sync: Callable[[], None]) -> None:
        """Give a checkpoint its name, once every process has written its file."""
        step = facts["step"]
        try:
            upload.result()
            if self.ranks.is_main:
                shards = sorted(target.glob("*.safetensors"))
                if len(shards) != self.ranks.world_size:
                    raise RunError(f"{target}: {len(shards)} files are there of {self.ranks.world_size} processes")
                for shard in shards:
                    fsync(shard)
                manifest = facts | {"files": {shard.name: _facts(shard) for shard in shards}}
                write_json(target / MANIFEST, manifest | {"sha256": _hash_of(manifest)}, durable=True)
                if self._broken is not None:
                    raise self._broken
                sync()
                self.check()
                name = _next_name(self.folder, step)
                target.rename(self.folder / name)
                fsync(self.folder)
                write_json(self.folder / POINTER, {"name": name, "step": step}, durable=True)
                self._prune()
            self._written += 1
        except BaseException as error:  # torch's CheckpointException is no Exception
            raise self._unwritable(step, error, target) from error

    def _write_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{self._token}")
        try:
            save_weights(weights, temporary)
            fsync(temporary)
            self.check()
            temporary.replace(path)
            fsync(path.parent)
        except Exception as error:
            temporary.unlink(missing_ok=True)
            self._broken = self._explained(f"{path} could not be written", error, "the last checkpoint")
            raise self._broken from error

    def _unwritable(self, step: int, error: BaseException, target: Path) -> BaseException:
        """What went wrong with a save, in words; its remains are removed, so that a full disk has room to say so."""
        if self.ranks.is_main:
            shutil.rmtree(target, ignore_errors=True)
        before = newest_step(self.folder)
        goes_on = f"step {before}" if before else "the beginning"
        return self._explained(f"{self.folder}: the checkpoint of step {step} could not be written", error, goes_on)

    def _explained(self, what: str, error: BaseException, goes_on: str) -> BaseException:
        """In words, what the disk said or torch found; our own errors as they are."""
        # Torch wraps the errors of all processes into one of its own.
        causes = [failure[0] for failure in getattr(error, "failures", {}).values()] or [error]
        for cause in causes:
            if isinstance(cause, OSError):
                full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
                way_out = "make room" if full else "see that the folder can be written"
                reason = cause.strerror or str(cause)
                return RunError(f"{what}: {reason}\n  way out: {way_out}; the same command goes on from {goes_on}")
            if self.ranks.world_size > 1 and is_about_a_peer(cause):
                return PeerLost(f"{what}: {one_line(cause)}")
        return error if isinstance(error, Exception) else RunError(f"{what}: {one_line(causes[0])}")

    def _prune(self) -> None:
        """Drop what retention does not keep."""
        found = _newest_first(self.folder)
        kept = {*found[: self.training.keep_checkpoints], *self._kept_longer(found)}
        try:
            for old in found:
                if old not in kept:
                    going = self.folder / f"{UNFINISHED}dropped_{uuid.uuid4().hex[:12]}"
                    old.rename(going)  # never a part of one under a real name
                    shutil.rmtree(going)
        except OSError as error:
            log.warning("%s: old checkpoints could not be removed (%s)", self.folder, error)

    def _kept_longer(self, found: list[Path]) -> Iterator[Path]:
        best = _best_step(found[0])
        every, before = self.training.keep_checkpoint_every, 0
        for candidate in reversed(found):
            step = _place(candidate)[0]
            # The first at or after what is wanted: a save may have come a few steps late.
            if self.training.keep_best_checkpoint and best is not None and before < best <= step:
                yield candidate
            if every is not None and before // every < step // every:
                yield candidate
            before = step

    def _sweep_up(self) -> None:
        """Remove what processes that were killed while they wrote have left; on a full disk it would keep it full."""
        for remains in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(remains, ignore_errors=True)
        for remains in self.folder.parent.glob(".*.safetensors.*"):
            remains.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------- reading

    def load(self) -> State | None:
        """The newest undamaged state, or None where no checkpoint was ever written. Tensors are on the host.

        A damaged checkpoint is put aside under another name, for whoever wants to look at it.

        Raises:
            RunError: when there were checkpoints and none can be used.
        """
        chosen = self.ranks.broadcast(self._choose() if self.ranks.is_main else None, self._group)
        if isinstance(chosen, RunError):
            raise chosen
        return None if chosen is None else _read(self.folder / str(chosen))

    def _choose(self) -> str | RunError | None:
        """Name of the newest undamaged checkpoint."""
        candidates, lost = _newest_first(self.folder), _announced(self.folder)
        if lost and lost not in [candidate.name for candidate in candidates]:
            log.warning("%s: checkpoint %s was written and is gone; taking the one before", self.folder, lost)
        try:
            self.check()
            self._sweep_up()
            for candidate in candidates:
                damage = _damage(candidate)
                if not damage:
                    return candidate.name
                aside = _free_name(self.folder, f"damaged_{candidate.name}")
                log.warning("checkpoint %s is damaged: %s; put aside as %s", candidate, damage, aside)
                self.check()
                candidate.rename(self.folder / aside)
        except OSError as error:  # says nothing about what was written
            return RunError(
                f"{error.filename}: {error.strerror}\n"
                "  way out: see that the disk can be read and written; to go without a checkpoint, rename its folder"
            )
        if candidates or lost or any(self.folder.glob("damaged_*")):
            return RunError(
                f"{self.folder}: there were checkpoints, and none of them can be used\n"
                f"  way out: bring one back, or remove {self.folder} to train from the beginning"
            )
        return None


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint in a folder of checkpoints; 0 where there is none."""
    return max((_place(path)[0] for path in _newest_first(folder)), default=0)


def _load_library() -> None:
    # It says at every save of a single process that it takes it for one.
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
    importlib.import_module(DCP)


def _take_apart(state: Any, path: str, tensors: dict[str, Tensor], rank: int) -> Any:
    """Move the tensors of a state into `tensors`; what is left is plain values that say where each one was."""
    if isinstance(state, Mapping):
        return {
            key: _take_apart(value, f"{path}/{key}" if path else key, tensors, rank) for key, value in state.items()
        }
    if isinstance(state, Rows):
        tensors[f"{path}@{rank}"] = state.tensor
        return {ROWS: path}
    if isinstance(state, Tensor):
        tensors[path] = state
        return {TENSOR: path}
    return state


def _put_together(tree: Any, tensors: Mapping[str, Tensor], world_size: int) -> Any:
    """The inverse; what was cut over processes is whole."""
    if not isinstance(tree, dict):
        return tree
    if TENSOR in tree:
        return tensors[tree[TENSOR]]
    if ROWS in tree:
        return torch.cat([tensors[f"{tree[ROWS]}@{rank}"] for rank in range(world_size)])
    return {key: _put_together(value, tensors, world_size) for key, value in tree.items()}


def _read(folder: Path) -> State:
    dcp = importlib.import_module(DCP)
    manifest = json.loads((folder / MANIFEST).read_text())
    reader = dcp.HuggingFaceStorageReader(str(folder))
    stored = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in stored.items()}
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    state: State = _put_together(manifest["state"], tensors, manifest["world_size"])
    return state


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint; empty where everything is what was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        written = manifest.pop("sha256")
        files = manifest["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({one_line(error)})"
    if _hash_of(manifest) != written:
        return f"{MANIFEST} has changed since it was written (its SHA-256 differs)"
    for name, facts in files.items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != facts["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes, {facts['bytes']:,} were written"
        if _facts(file) != facts:
            return f"{name} has changed since it was written (its SHA-256 differs)"
    return ""


def _hash_of(manifest: State) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step_*") if NAME.fullmatch(path.name)), key=_place, reverse=True)


def _place(checkpoint: Path) -> tuple[int, int]:
    """Its step, and which one of that step it is."""
    match = NAME.fullmatch(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1]), int(match[2] or 1)


def _next_name(folder: Path, step: int) -> str:
    """With a number behind it, if the step is there: one that was left before its evaluation is saved again after."""
    taken = [number for other, number in map(_place, _newest_first(folder)) if other == step]
    return f"step_{step:08d}-{max(taken) + 1}" if taken else f"step_{step:08d}"


def _free_name(folder: Path, wanted: str) -> str:
    names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not (folder / name).exists())


def _best_step(checkpoint: Path) -> int | None:
    best: int | None = json.loads((checkpoint / MANIFEST).read_text())["best_step"]
    return best


def _announced(folder: Path) -> str:
    """Name of the checkpoint that was written last, by the pointer; empty where there is none."""
    try:
        return str(json.loads((folder / POINTER).read_text())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
