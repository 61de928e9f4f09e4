"""Weights in and out: published checkpoints (HRM_SPEC section 1, "Parameter/state table") and safetensors.

What a file is, its content says and not its name. A file is data only: what is pickled goes through torch's
weights-only unpickler, which makes tensors and plain containers and calls nothing else.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hrm_lab.errors import RunError, one_line
from hrm_lab.model.hrm import HRM
from hrm_lab.model.layers import swiglu_width

PUBLISHED_PREFIX = "model.inner."  # the published model wraps HRM twice: loss head, then ACT
COMPILED_PREFIX = "_orig_mod."  # torch.compile wraps that once more
FORMS = ("published", "safetensors")
# Buffers that the published code does not store, but that copies of it do; they follow from config and batch.
NOT_STORED = (
    "puzzle_emb.local_weights",
    "puzzle_emb.local_ids",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)
SIGNS = {"embed_tokens.embedding_weight", "q_head.weight", "H_init", "L_init"}  # a file with none of them is no HRM
LISTED = 4  # names of each kind in an error message
STATE_DICT = "save the state dict alone where it was made: torch.save(model.state_dict(), FILE)"


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a published state dict, whatever it is wrapped in."""
    return {_our_name(name): tensor for name, tensor in state.items()}


def _our_name(name: str) -> str:
    """Without the names of the wrappers; none of HRM's own parts is called `model` or `inner`."""
    return re.sub(r"^(?:model\.|inner\.)+", "", name.replace(COMPILED_PREFIX, ""))


# --------------------------------------------------------------------------------------------- reading


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint or a safetensors file, in our names, on the CPU and in the file's dtypes.

    Those of a published checkpoint may be memory-mapped: the file must stay as it is while they are used.

    Raises:
        RunError: for a file that is damaged, that holds anything but tensors, or that holds no HRM.
    """
    state: dict[str, Tensor] = {}
    for name, value in _entries(path).items():
        ours = _our_name(name)
        if ours in NOT_STORED:
            continue
        if not isinstance(value, Tensor):
            raise _refusal(path, f"is no state dict: its entry {name!r} is of type {type(value).__name__}", STATE_DICT)
        if value.layout != torch.strided or value.device.type != "cpu" or not value.is_floating_point():
            kind = f"{value.dtype}, {value.layout}, on {value.device}"
            raise _refusal(path, f"its entry {name!r} is no plain tensor of floats ({kind})", STATE_DICT)
        if ours in state:
            raise _refusal(path, f"has two tensors for {ours}", "take a file with the weights of one model")
        state[ours] = value.detach()
    if SIGNS.isdisjoint(state):
        raise _refusal(path, f"holds no HRM ({_listed('tensors', list(state)) or 'no tensors'})", "give another file")
    return state


def _entries(path: Path) -> Mapping[str, Any]:
    """What a file holds under which name, by whatever reader its first bytes call for."""
    head = _head(path)
    try:
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            return load_file(path)
        if not head.startswith((b"PK", b"\x80")):
            raise _refusal(
                path, f"is neither a torch checkpoint nor safetensors{_guess(head)}", "give a file of weights"
            )
        held = _load_torch(path, head)
    except RunError:
        raise
    except Exception as error:  # a reader of damaged bytes fails in any way there is
        raise _unreadable(path, error) from error
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        raise _refusal(path, f"is no state dict, but of type {type(held).__name__}", STATE_DICT)
    return held


def _load_torch(path: Path, head: bytes) -> object:
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore", UserWarning)  # about pickles that are damaged, which an error says
        # Only a zip can be mapped; and by its name torch would take any file called *.safetensors for one.
        if head.startswith(b"PK") and not path.name.endswith(".safetensors"):
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise _refusal(
            path, f"cannot be read: {error.strerror}", "give a file of weights, or a run's folder"
        ) from error


def _guess(head: bytes) -> str:
    if not head:
        return ": it is empty"
    if head.startswith(b"version https://git-lfs"):
        return ": it only points to the file (`git lfs pull` fetches that)"
    return ""


def _unreadable(path: Path, error: Exception) -> RunError:
    """Code in a pickle shows as a name that the unpickler will not look up."""
    text = str(error)
    name = re.search(r"GLOBAL (\S+)", text) or re.search(r"[Uu]nsupported (?:global|class|type)[: ]+(\S+)", text)
    if name:
        return _refusal(path, f"holds more than tensors ({name[1]}), and code in a file is never run", STATE_DICT)
    cause = one_line(error).partition(" In PyTorch 2.6")[0]  # what follows there is the advice to run the code
    problem = f"cannot be read as weights ({cause})"
    return _refusal(path, problem, "it is cut off, damaged or something else: fetch it again, or give another file")


def _refusal(path: object, problem: str, way_out: str) -> RunError:
    return RunError(f"{path}: {problem}\n  way out: {way_out}")


# --------------------------------------------------------------------------------------------- loading


def load_into(model: HRM, state: Mapping[str, Tensor], source: object = "these weights") -> None:
    """Copy weights in our names into a model, into the model's dtypes. All of them fit, or none is copied.

    Args:
        source: what an error calls them.

    Raises:
        RunError: listing what is missing, unexpected or of another shape, and the settings that would fit.
    """
    own = model.state_dict()
    reshaped = [
        f"{name} {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        _listed("missing", [name for name in own if name not in state]),
        _listed("unexpected", [name for name in state if name not in own]),
        _listed("of another shape", reshaped),
    ]
    if any(problems):
        raise _refusal(source, f"do not fit this model: {'; '.join(filter(None, problems))}", _fitting(model, state))
    model.load_state_dict(state)


def _listed(kind: str, names: Sequence[str]) -> str:
    """How many there are and which, the first few of them; empty where there are none."""
    if not names:
        return ""
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:LISTED])}{more}"


def _fitting(model: HRM, state: Mapping[str, Tensor]) -> str:
    """The settings that a model of these weights needs, as far as names and shapes tell them."""
    own = model.state_dict()
    theirs, ours = _architecture(state), _architecture(own)
    changes = [f"{key}={value} (it is {ours[key]})" for key, value in theirs.items() if value != ours[key]]
    width, inner = _size(state, "lm_head.weight", 1), _size(state, "H_level.layers.0.mlp.down_proj.weight", 1)
    if width and inner and swiglu_width(width, model.config.expansion) != inner:
        changes.append(f"model.expansion={1.5 * inner / width:g} (it is {model.config.expansion:g})")
    task = _task(own)
    facts = [
        f"{value} {key} (these have {task[key]})"
        for key, value in _task(state).items()
        if value != task.get(key, value)
    ]
    words = [f"set {' '.join(changes)}"] if changes else []
    words += [f"take data with {' and '.join(facts)}"] if facts else []
    return "; ".join(words) or "give the model=... and model.KEY=VALUE that they were trained with"


def _architecture(state: Mapping[str, Tensor]) -> dict[str, int | str]:
    """Settings that names and shapes tell; heads and cycles leave no trace in the weights."""
    told: dict[str, int | str] = {
        "model.hidden_size": _size(state, "lm_head.weight", 1),
        "model.H_layers": _depth(state, "H_level"),
        "model.L_layers": _depth(state, "L_level"),
        "model.puzzle_emb_ndim": _size(state, "puzzle_emb.weights", 1),
        "model.pos_encodings": "learned" if "embed_pos.embedding_weight" in state else "rope",
    }
    # Zero is what no model has: there it means that the weights are not all there, and do not tell.
    return {key: value for key, value in told.items() if value or key == "model.puzzle_emb_ndim"}


def _task(state: Mapping[str, Tensor]) -> dict[str, int]:
    """What a dataset must have for these weights."""
    width, rows = _size(state, "lm_head.weight", 1), _size(state, "embed_pos.embedding_weight", 0)
    puzzle_tokens = -(_size(state, "puzzle_emb.weights", 1) // -width) if width else 0
    told = {
        "tokens in the vocabulary": _size(state, "lm_head.weight", 0),
        "puzzle identifiers": _size(state, "puzzle_emb.weights", 0),
        "positions": rows - puzzle_tokens if rows else 0,
    }
    return {key: value for key, value in told.items() if value}


def _size(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Length of an axis; 0 where there is none."""
    tensor = state.get(name)
    return tensor.shape[axis] if tensor is not None and tensor.dim() > axis else 0


def _depth(state: Mapping[str, Tensor], module: str) -> int:
    return len({name.split(".")[2] for name in state if name.startswith(f"{module}.layers.")})


# --------------------------------------------------------------------------------------------- writing


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights in our names (a model's state_dict) as safetensors, under the published names."""
    named = {f"{PUBLISHED_PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}
    path.write_bytes(save(named))  # the library's own way to a file lets only its owner read it


def export(state: Mapping[str, Tensor], path: Path, form: str = "published", compiled_names: bool = False) -> None:
    """Write weights in our names for use elsewhere, whole or not at all, and never over a file that is there.

    Dtypes stay: float32, and for H_init and L_init the `forward_dtype` they were trained in, as in published files.

    Args:
        form: `published` (an ordered state dict by torch.save) or `safetensors`.
        compiled_names: with the `_orig_mod.` in front that a published training with torch.compile writes.

    Raises:
        RunError: when there is such a file, or it cannot be written.
    """
    if form not in FORMS:
        raise RunError(f"format {form}: no such form\n  way out: one of {', '.join(FORMS)}")
    if os.path.lexists(path):
        raise _refusal(path, "is there already", "give another name, or remove it first")
    prefix = f"{COMPILED_PREFIX if compiled_names else ''}{PUBLISHED_PREFIX}"
    # Copies: a view would take all of the storage that it looks at along.
    copies = (tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for tensor in state.values())
    named = OrderedDict(zip((f"{prefix}{name}" for name in state), copies, strict=True))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if form == "safetensors":
            temporary.write_bytes(save(named))
        else:
            with temporary.open("wb") as file:  # opened here, because torch goes by the names of files
                torch.save(named, file)
        temporary.rename(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _refusal(
            path, f"cannot be written ({one_line(error)})", "give a folder that is there and has room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
