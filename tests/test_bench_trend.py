"""What a benchmark says of the one before it: figures made up, no clock."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.trend import measured, report, slower

KEY = {"case": "a", "way": "eager", "machine": "m"}
OLD = {"key": KEY, "seconds": 1.0, "quartiles": [0.95, 1.05], "date": "2026-01-02T03:04:05Z", "commit": "abc"}


def test_only_what_is_beyond_the_spread_is_slower() -> None:
    assert slower(measured(KEY, [1.08, 1.09, 1.1]), [OLD]) == ""  # the old one's spread is 0.1
    assert slower(measured(KEY, [1.0, 1.3, 1.7]), [OLD]) == ""  # its own is 0.35
    assert slower(measured(KEY, [0.5, 0.5, 0.5]), [OLD]) == ""
    said = slower(measured(KEY, [1.2, 1.21, 1.22]), [OLD])
    assert said == "slower: a eager m: 1.21 times as long as on 2026-01-02 (commit abc)"


def test_values_that_agree_by_chance_are_no_spread() -> None:
    exact = OLD | {"quartiles": [1.0, 1.0]}
    assert slower(measured(KEY, [1.015, 1.015, 1.015]), [exact]) == ""
    assert slower(measured(KEY, [1.03, 1.03, 1.03]), [exact]) != ""


def test_the_last_entry_of_the_same_thing_counts() -> None:
    entry = measured(KEY, [1.5, 1.5, 1.5])
    assert slower(entry, [OLD, OLD | {"seconds": 1.5}]) == ""
    assert slower(entry, [OLD | {"seconds": 1.5}, OLD]) != ""
    assert slower(entry, [OLD | {"key": KEY | {"machine": "another"}}]) == ""
    assert slower(entry, []) == ""


def test_entries_are_compared_with_those_before_them_and_kept_when_asked(tmp_path: Path) -> None:
    assert report("x", [measured(KEY, [1.0])], keep=False, folder=tmp_path) == []
    assert not (tmp_path / "x.jsonl").exists()
    assert report("x", [measured(KEY, [1.0])], keep=True, folder=tmp_path) == []
    assert len(report("x", [measured(KEY, [2.0], wall_s=3.0)], keep=True, folder=tmp_path)) == 1
    assert report("x", [measured(KEY, [2.0])], keep=False, folder=tmp_path) == []
    first, second = (json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines())
    assert (first["seconds"], second["wall_s"]) == (1.0, 3.0)
    assert {"date", "commit", "torch", "python"} <= first.keys()
