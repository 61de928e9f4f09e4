"""training.profile: a trace and a table of a few steps, in the run's folder and in its journal."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hrm_lab.data.build import ensure_dataset
from hrm_lab.progress import PlainProgress
from hrm_lab.stopping.rules import Rules
from hrm_lab.tracking.journal import Journal, JournalRecorder, read_journal
from hrm_lab.training import profile
from hrm_lab.training.distributed import connect
from hrm_lab.training.protocols import Uncontrolled
from hrm_lab.training.trainer import Trainer
from tests.small import small_config


@pytest.mark.parametrize(("wait", "last"), [(1, 5), (4, 8), (9, None)])
def test_a_profile_is_left_as_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: int, last: int | None
) -> None:
    """Of whole steps, of those that were left (a run that ends meanwhile), and none where it has ended before."""
    monkeypatch.setattr(profile, "WAIT", wait)
    monkeypatch.setattr(profile, "STEPS", 2 if wait == 1 else 5)
    config = small_config(tmp_path, profile=True, checkpoint_interval=None)
    journal = Journal(tmp_path / "journal.jsonl")
    recorder = JournalRecorder(journal, PlainProgress(), tmp_path)
    dataset, ranks = ensure_dataset(config.data, config.paths.data), connect(config.training)
    Trainer(config, dataset, tmp_path, recorder, Rules(config.stopping), ranks, Uncontrolled()).fit()
    places = [entry["artifact"] for entry in read_journal(journal.path) if "artifact" in entry]
    left = [place for place in places if place.startswith("profile/")]
    if last is None:
        assert left == []
        return
    assert left == [f"profile/step_{last:08d}.json.gz", f"profile/step_{last:08d}.txt"]
    trace = json.loads(gzip.decompress((tmp_path / left[0]).read_bytes()))
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    assert "aten::mm" in (tmp_path / left[1]).read_text()
