"""Weights in and out: round trips, files that are refused, and published files judged by the golden vectors."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hrm_lab.errors import RunError
from hrm_lab.model.act import reason
from hrm_lab.model.hrm import HRM
from hrm_lab.model.interop import PUBLISHED_PREFIX, export, load_into, load_weights, save_weights
from hrm_lab.tracking.journal import read_journal
from tests.model.golden import FOLDER, LOGITS, Case, Deviations, check_evaluation
from tests.small import hrm_lab, small_config

VOCABULARY, LENGTH, IDENTIFIERS = 6, 16, 3
State = dict[str, torch.Tensor]


def model(seed: int = 0, **settings: Any) -> HRM:
    config = replace(small_config(Path()).model, **settings)
    made = HRM(config, VOCABULARY, LENGTH, IDENTIFIERS, torch.Generator().manual_seed(seed))
    if made.puzzle_emb is not None:
        made.puzzle_emb.weights.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def assert_same(ours: State, theirs: State) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


# --------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("compiled_names", [False, True])
def test_there_and_back_bit_for_bit(tmp_path: Path, dtype: str, compiled_names: bool) -> None:
    original = model(forward_dtype=dtype)
    state: State = dict(original.state_dict())
    assert state["H_init"].dtype == getattr(torch, dtype)
    save_weights(original.state_dict(), tmp_path / "own")
    export(load_weights(tmp_path / "own"), tmp_path / "published", "published", compiled_names)
    export(load_weights(tmp_path / "published"), tmp_path / "again", "safetensors", compiled_names)
    for name in ("own", "published", "again"):
        assert_same(state, load_weights(tmp_path / name))
    other = model(seed=1, forward_dtype=dtype)
    load_into(other, load_weights(tmp_path / "again"))
    assert_same(state, dict(other.state_dict()))
    assert {file.name for file in tmp_path.iterdir()} == {"own", "published", "again"}
    assert (tmp_path / "again").stat().st_mode == (tmp_path / "published").stat().st_mode


def test_what_is_exported_has_the_published_form(tmp_path: Path) -> None:
    state = model().state_dict()
    export(state, tmp_path / "plain")
    export(state, tmp_path / "compiled", compiled_names=True)
    plain = torch.load(tmp_path / "plain", weights_only=True)
    assert type(plain) is OrderedDict
    assert list(plain) == [f"model.inner.{name}" for name in state]
    assert list(torch.load(tmp_path / "compiled", weights_only=True)) == [f"_orig_mod.{name}" for name in plain]


def test_the_runs_own_files_stay_as_they_were(tmp_path: Path) -> None:
    made = model()
    save_weights(made.state_dict(), tmp_path / "ours")
    save_file({f"model.inner.{name}": tensor for name, tensor in made.state_dict().items()}, tmp_path / "before")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "before").read_bytes()


def test_views_leave_without_what_they_are_views_of(tmp_path: Path) -> None:
    state = dict(model().state_dict())
    big = torch.zeros(1000, *state["lm_head.weight"].shape)
    big[7] = state["lm_head.weight"]
    export(state | {"lm_head.weight": big[7]}, tmp_path / "view")
    export(state, tmp_path / "whole")
    assert (tmp_path / "view").stat().st_size == (tmp_path / "whole").stat().st_size
    assert_same(state, load_weights(tmp_path / "view"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    state = model().state_dict()
    (tmp_path / "there").write_text("mine")
    with pytest.raises(RunError, match="there: is there already"):
        export(state, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(RunError, match="cannot be written"):
        export(state, tmp_path / "no" / "folder")
    with pytest.raises(RunError, match="one of published, safetensors"):
        export(state, tmp_path / "new", "onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    "prefix", ["", "model.", "inner.", "model.inner.", "_orig_mod.model.inner.", "model._orig_mod.inner."]
)
def test_any_mix_of_wrappers(tmp_path: Path, prefix: str) -> None:
    state = dict(model().state_dict())
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "file")
    assert_same(state, load_weights(tmp_path / "file"))


def test_content_tells_the_kind_and_not_the_name(tmp_path: Path) -> None:
    state = dict(model().state_dict())
    torch.save(state, tmp_path / "torch")
    (tmp_path / "torch").rename(tmp_path / "torch.safetensors")
    torch.save(state, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "safe.pt")
    for name in ("torch.safetensors", "legacy", "safe.pt"):
        assert_same(state, load_weights(tmp_path / name))


def test_a_file_that_was_saved_from_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = dict(model().state_dict())
    with monkeypatch.context() as patched:
        patched.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
        torch.save(state, tmp_path / "new")
        torch.save(state, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    for name in ("new", "legacy"):
        assert b"cuda:0" in (tmp_path / name).read_bytes()
        assert_same(state, load_weights(tmp_path / name))


def test_buffers_that_follow_from_the_config_are_ignored(tmp_path: Path) -> None:
    state = dict(model().state_dict())
    extra = {
        "puzzle_emb.local_weights": torch.zeros(8, 16, requires_grad=True),
        "puzzle_emb.local_ids": torch.zeros(8, dtype=torch.int32),
        "rotary_emb.cos_cached": torch.zeros(17, 8),
        "rotary_emb.sin_cached": torch.zeros(17, 8),
    }
    torch.save({f"_orig_mod.model.inner.{k}": v for k, v in (state | extra).items()}, tmp_path / "fork")
    assert_same(state, load_weights(tmp_path / "fork"))


def test_a_published_bfloat16_start_loads_where_float32_is_computed_in(tmp_path: Path) -> None:
    published = model(forward_dtype="bfloat16")
    export(published.state_dict(), tmp_path / "file")
    other = model(seed=1, forward_dtype="float32")
    load_into(other, load_weights(tmp_path / "file"))
    assert other.H_init.dtype == torch.float32
    assert torch.equal(other.H_init, published.H_init.float())


# --------------------------------------------------------------------------------------------- refusals


class Trap:
    """Unpickled, it would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.mark), "w")


def _raw(held: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(held, protocol=2))


def _raw_by_default(held: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(held))


def _zipped(held: Any, path: Path) -> None:
    torch.save(held, path)


def _legacy(held: Any, path: Path) -> None:
    torch.save(held, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [_raw, _raw_by_default, _zipped, _legacy])
def test_code_in_a_file_is_not_run(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    mark, file = tmp_path / "mark", tmp_path / "file"
    write(dict(model().state_dict()) | {"H_init": Trap(mark)}, file)
    # Newer pickles are refused before the name of the trap is read.
    told = "cannot be read as weights" if write is _raw_by_default else r"holds more than tensors \(io.open\), and code"
    with pytest.raises(RunError, match=rf"file: {told}.*\n  way out: .") as error:
        load_weights(file)
    assert "arbitrary code" not in str(error.value)  # torch's advice to run it
    assert not mark.exists()
    # The trap is one: whoever unpickles it springs it.
    pickle.loads(pickle.dumps(Trap(mark))).close()
    assert mark.exists()


@pytest.mark.parametrize("form", ["published", "safetensors"])
def test_a_file_that_is_cut_off(tmp_path: Path, form: str) -> None:
    file = tmp_path / "file"
    export(model().state_dict(), file, form)
    whole = file.read_bytes()
    for length in (0, 4, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"file: (cannot be read as weights|is neither).*\n  way out: ."):
            load_weights(file)


@pytest.mark.parametrize("form", ["published", "legacy", "safetensors"])
def test_damage_is_never_a_traceback(tmp_path: Path, form: str) -> None:
    file, draw = tmp_path / "file", random.Random(0)
    state = {"H_init": torch.zeros(4), "lm_head.weight": torch.zeros(3, 4)}
    if form == "legacy":
        _legacy(state, file)
    else:
        export(state, file, form)
    whole = file.read_bytes()
    for _ in range(300):
        bytes_ = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            bytes_[draw.randrange(len(bytes_))] = draw.randrange(256)
        file.write_bytes(bytes_)
        with suppress_refusal(file):
            load_into(model(), load_weights(file), file)


@contextmanager
def suppress_refusal(file: Path) -> Iterator[None]:
    """Damage may go unseen or be refused in words."""
    try:
        yield
    except RunError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{file}: ")
    assert "\n  way out: " in message


def _not_a_torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.write_text("hello"), "is neither a torch checkpoint nor safetensors"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "it only points to the file"),
        (_not_a_torch_zip, "cannot be read as weights"),
        (lambda path: torch.save([torch.zeros(2)], path), "is no state dict, but of type list"),
        (lambda path: torch.save({1: torch.zeros(2)}, path), "is no state dict"),
        (lambda path: torch.save({"model": {"H_init": torch.zeros(2)}}, path), "its entry 'model' is of type dict"),
        (lambda path: torch.save({"H_init": torch.zeros(2, dtype=torch.int32)}, path), "no plain tensor of floats"),
        (lambda path: torch.save({"H_init": torch.zeros(2, device="meta")}, path), "no plain tensor of floats"),
        (lambda path: torch.save({"H_init": torch.zeros(2, 2).to_sparse()}, path), "no plain tensor of floats"),
        (
            lambda path: torch.save({"encoder.weight": torch.zeros(2)}, path),
            r"holds no HRM \(1 tensors: encoder.weight",
        ),
        (lambda path: torch.save({}, path), r"holds no HRM \(no tensors\)"),
        (
            lambda path: torch.save({"H_init": torch.zeros(2), "model.inner.H_init": torch.ones(2)}, path),
            "two tensors for H_init",
        ),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, write: Callable[[Path], Any], problem: str) -> None:
    write(tmp_path / "file")
    with pytest.raises(RunError, match=rf"file: .*{problem}.*\n  way out: ."):
        load_weights(tmp_path / "file")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(RunError, match=r"cannot be read: .*\n  way out"):
            load_weights(path)


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({"hidden_size": 32}, "set model.hidden_size=32 (it is 16)"),
        ({"H_layers": 3}, "set model.H_layers=3 (it is 1)"),
        ({"H_layers": 2, "L_layers": 3}, "set model.H_layers=2 (it is 1) model.L_layers=3 (it is 1)"),
        ({"puzzle_emb_ndim": 0}, "set model.puzzle_emb_ndim=0 (it is 16)"),
        ({"puzzle_emb_ndim": 40}, "set model.puzzle_emb_ndim=40 (it is 16)"),
        ({"pos_encodings": "learned"}, "set model.pos_encodings=learned (it is rope)"),
        ({"expansion": 32.0}, "set model.expansion=48 (it is 4)"),
    ],
)
def test_weights_of_another_architecture_name_the_setting(settings: dict[str, Any], way_out: str) -> None:
    mine, state = model(), dict(model(**settings).state_dict())
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    with pytest.raises(RunError) as error:
        load_into(mine, state, "FILE")
    problem, _, remedy = str(error.value).partition("\n  way out: ")
    assert problem.startswith("FILE: do not fit this model: ")
    assert remedy == way_out
    assert_same(before, dict(mine.state_dict()))
    # The way out is one.
    (changes,) = [dict(word.split("=") for word in remedy.split() if word.startswith("model."))]
    values = {key.removeprefix("model."): value for key, value in changes.items()}
    types = {"pos_encodings": str, "expansion": float}
    load_into(model(**{key: types.get(key, int)(value) for key, value in values.items()}), state)


def test_weights_of_another_task_name_what_the_data_must_have() -> None:
    state = HRM(small_config(Path()).model, 11, LENGTH, 900).state_dict()
    with pytest.raises(RunError) as error:
        load_into(model(), state)
    assert "take data with 11 tokens in the vocabulary (these have 6) and 900 puzzle identifiers (these have 3)" in str(
        error.value
    )
    learned = replace(small_config(Path()).model, pos_encodings="learned")
    with pytest.raises(RunError, match=r"take data with 81 positions \(these have 16\)"):
        load_into(model(pos_encodings="learned"), HRM(learned, VOCABULARY, 81, IDENTIFIERS).state_dict())


def test_what_is_missing_and_what_is_too_much_is_listed() -> None:
    state: State = dict(model().state_dict())
    del state["H_init"]
    state |= {f"extra{number}": torch.zeros(1) for number in range(6)}
    with pytest.raises(RunError) as error:
        load_into(model(), state)
    assert "1 missing: H_init; 6 unexpected: extra0, extra1, extra2, extra3, and 2 more" in str(error.value)
    with pytest.raises(RunError, match=r"1 of another shape: q_head.bias \(3,\), not \(2,\)"):
        load_into(model(), dict(model().state_dict()) | {"q_head.bias": torch.zeros(3)})


# --------------------------------------------------------------------------------------------- golden


@pytest.fixture
def case() -> Case:
    return Case(next(FOLDER.glob("case1*.npz")))


def _through_a_file(case: Case, state: dict[str, np.ndarray], file: Path) -> HRM:
    """Written as a published training with torch.compile writes it, and loaded into a model of another seed."""
    published = {f"_orig_mod.{name}": torch.from_numpy(array) for name, array in state.items()}
    torch.save(OrderedDict(published), file)
    c = case.config
    fresh = HRM(case.model.config, c["V"], c["S"], c["n_ids"], torch.Generator().manual_seed(99))
    assert not torch.equal(fresh.lm_head.weight, case.model.lm_head.weight)
    load_into(fresh, load_weights(file), file)
    return fresh


def _held(case: Case, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): array for key, array in case.arrays.items() if key.startswith(prefix)}


@torch.inference_mode()
def test_published_initial_weights_give_the_published_first_step(case: Case, tmp_path: Path) -> None:
    loaded = _through_a_file(case, _held(case, "init/"), tmp_path / "step_0")
    (prediction,) = reason(loaded, case.batch("step1/batch"), 1)
    deviations = Deviations()
    deviations.close("logits", prediction.logits, case.arrays["step1/logits"], LOGITS)
    deviations.close("q", prediction.q_halt, case.arrays["step1/q_halt_logits"], LOGITS)
    deviations.close("q", prediction.q_continue, case.arrays["step1/q_continue_logits"], LOGITS)
    print(deviations.largest)


def test_published_trained_weights_give_the_published_evaluation(case: Case, tmp_path: Path) -> None:
    last = f"step{case.config['steps']}"
    trained = {f"{PUBLISHED_PREFIX}puzzle_emb.weights": case.arrays[f"{last}/puzzle_emb_weights"]}
    state = _held(case, "init/") | _held(case, f"{last}/params/") | trained
    case.model = _through_a_file(case, state, tmp_path / last)
    deviations = Deviations()
    check_evaluation(case, deviations)
    print(deviations.largest)


# --------------------------------------------------------------------------------------------- the verbs

SMALL = [
    "model=hrm_tiny",
    "data=sudoku_4x4",
    "tracking=none",
    "data.num_train=32",
    "data.num_test=24",
    "model.hidden_size=16",
    "model.halt_max_steps=2",
    "training.epochs=4",
    "training.eval_interval=2",
    "training.global_batch_size=16",
]


def test_a_run_is_evaluated_as_it_was_in_training_and_so_is_what_is_exported(tmp_path: Path) -> None:
    assert hrm_lab(tmp_path, "train", *SMALL).returncode == 0
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    entries = [entry["metrics"] for entry in read_journal(run / "journal.jsonl") if "metrics" in entry]
    logged = [metrics for metrics in entries if "eval/exact_accuracy" in metrics][-1]
    expected = {key: value for key, value in logged.items() if key.startswith("eval/")}

    elsewhere = tmp_path / "elsewhere"  # the data of a run are found from anywhere
    elsewhere.mkdir()
    of_run = hrm_lab(elsewhere, "evaluate", str(run), "--last", "--json")
    assert of_run.returncode == 0, of_run.stderr
    assert json.loads(of_run.stdout)["metrics"] == expected
    assert list(elsewhere.iterdir()) == []

    out = tmp_path / "exported"
    exported = hrm_lab(tmp_path, "export", str(run), str(out), "--last", "--compiled-names")
    assert exported.returncode == 0, exported.stderr
    of_file = hrm_lab(tmp_path, "evaluate", str(out), *SMALL)
    assert of_file.returncode == 0, of_file.stderr
    shown = dict(line.split() for line in of_file.stdout.splitlines() if "eval/" in line)
    assert shown == {key: f"{value:.6g}" for key, value in expected.items()}

    refused = hrm_lab(tmp_path, "evaluate", str(run), "model.halt_max_steps=4")
    assert refused.returncode == 1
    assert "own config" in refused.stderr
    assert f"{run}/best.safetensors" in refused.stderr
