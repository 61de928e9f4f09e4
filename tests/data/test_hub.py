"""Files of the hub through its real client, against a hub on this machine that can also lie and fall silent."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hrm_lab.data import hub
from hrm_lab.errors import ConfigError, DataError

REPO, FIRST, SECOND = "owner/puzzles", "1" * 40, "2" * 40
PLANTED = "hf" + "_neverToBeSeenAnywhere0123456789"  # in two parts: this file holds no secret


@dataclass
class Hub:
    """What the stand-in serves: files by (revision, name), as the real one does, checksums in the headers."""

    address: str = ""
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)  # revision -> commit
    sent: dict[str, bytes] = field(default_factory=dict)  # name -> what is sent in place of the file
    status: int = 200
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", PLANTED)
    state = Hub(commits={FIRST: FIRST, SECOND: SECOND, "main": FIRST})

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            state.requests.append(f"{self.command} {self.path}")
            _, _, path = self.path.partition(f"/datasets/{REPO}/resolve/")
            revision, _, name = path.partition("/")
            content = state.files.get((state.commits.get(revision, ""), name))
            if state.status != 200:
                self.send_response(state.status)
            elif not path:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
            elif revision not in state.commits:
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound")
            elif content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_response(200)
                self.send_header("X-Repo-Commit", state.commits[revision])
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Linked-Size", str(len(content)))
                sent = state.sent.get(name, content)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_body:
                    self.wfile.write(sent)
                    self.close_connection = True
                return
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    httpd.server_close()


def fetch(server: Hub, cache: Path, name: str = "train.csv", revision: str = FIRST, repo: str = REPO) -> hub.HubFile:
    return hub.fetch(repo, name, revision, endpoint=server.address, cache=cache)


def test_a_file_is_fetched_once_and_its_bytes_are_those_announced(server: Hub, tmp_path: Path) -> None:
    server.files[FIRST, "train.csv"] = b"a,b\n" * 1000
    file = fetch(server, tmp_path)
    assert file.path.read_bytes() == b"a,b\n" * 1000
    assert file.sha256 == hashlib.sha256(b"a,b\n" * 1000).hexdigest()
    assert file.revision == FIRST
    asked = len(server.requests)
    server.status = 503
    assert fetch(server, tmp_path) == file
    assert len(server.requests) == asked  # a commit that is here is not asked for


def test_a_branch_is_followed_and_a_commit_is_not(server: Hub, tmp_path: Path) -> None:
    server.files[FIRST, "train.csv"], server.files[SECOND, "train.csv"] = b"old", b"new"
    assert fetch(server, tmp_path, revision="main").revision == FIRST
    server.commits["main"] = SECOND
    moved = fetch(server, tmp_path, revision="main")
    assert (moved.revision, moved.path.read_bytes()) == (SECOND, b"new")
    assert fetch(server, tmp_path).path.read_bytes() == b"old"
    server.commits["3" * 40] = SECOND
    with pytest.raises(DataError, match=f"as of commit {SECOND}\n  way out: .*hub_revision={SECOND}"):
        fetch(server, tmp_path, revision="3" * 40)


@pytest.mark.parametrize("sent", [b"evil!", b""], ids=["other bytes", "none"])
def test_other_bytes_than_announced_are_refused(
    server: Hub, tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    server.files[FIRST, "train.csv"], server.sent["train.csv"] = b"right", sent
    with pytest.raises(DataError, match=r"owner/puzzles/train\.csv at 1+: .*\n  way out: "):
        fetch(server, tmp_path)


def test_a_copy_that_was_damaged_later_is_refused_without_asking(server: Hub, tmp_path: Path) -> None:
    server.files[FIRST, "train.csv"] = b"right"
    path = fetch(server, tmp_path).path
    path.resolve().write_bytes(b"wrong")
    with pytest.raises(DataError, match=r"damaged or cut off\n  way out: delete .*blobs.* and try again"):
        fetch(server, tmp_path)
    path.resolve().unlink()
    assert fetch(server, tmp_path).path.read_bytes() == b"right"


def test_a_copy_without_links_is_compared_with_what_the_hub_says(server: Hub, tmp_path: Path) -> None:
    server.files[FIRST, "train.csv"] = b"right"
    path = fetch(server, tmp_path).path
    os.replace(path.resolve(), path)
    assert fetch(server, tmp_path).sha256 == hashlib.sha256(b"right").hexdigest()
    path.write_bytes(b"wrong")
    with pytest.raises(DataError, match="damaged or cut off"):
        fetch(server, tmp_path)


def test_what_is_not_there_is_told(server: Hub, tmp_path: Path) -> None:
    server.files[FIRST, "train.csv"] = b"right"
    for wrong, said in (
        ({"name": "gone.csv"}, "the repository has no such file"),
        ({"revision": "4" * 40}, "no such revision\n  way out: correct data.hub_revision"),
        ({"repo": "owner/gone"}, "no such repository, or it is closed"),
        ({"repo": "../gone"}, "is no name of a repository"),
        ({"name": "../../gone"}, "way out"),
    ):
        with pytest.raises(DataError, match=said) as error:
            fetch(server, tmp_path, **wrong)
        assert PLANTED not in str(error.value)
    assert not (tmp_path.parent / "gone").exists()


def test_a_hub_that_is_away_is_told(tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or the client tries for half a minute
    with pytest.raises(DataError, match=r"cannot be reached.*\n  way out: run `hf download owner/puzzles train\.csv"):
        fetch(server, tmp_path)
    assert not server.requests


def test_only_a_commit_names_data() -> None:
    hub.require_commit(REPO, FIRST)
    for revision in (None, "main", "v1", FIRST[:-1], FIRST.replace("1", "G")):
        with pytest.raises(ConfigError, match=r"data\.hub_revision=.*\n  way out: .*commits/main"):
            hub.require_commit(REPO, revision)


BUILD = """
import json, sys
sys.modules["numba"] = None  # a machine that only trains has none, and files need none
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.tasks.sudoku import SudokuDataConfig, TASK
config = SudokuDataConfig(name="hub", source="hub", hub_repo="owner/puzzles", hub_revision="1" * 40,
                          box_rows=2, box_cols=2, num_train=None, num_test=None)
config.check()
info = ensure_dataset(config, sys.argv[1]).info
assert "_" == TASK.appearance(info).glyphs[0]
try:
    ensure_dataset(SudokuDataConfig(box_rows=2, box_cols=2, num_train=2, num_test=1), sys.argv[1])
except Exception as error:
    print(json.dumps([info.fingerprint, info.build, str(error)]))
"""


def test_a_dataset_is_built_from_the_hub_and_again_without_it(server: Hub, tmp_path: Path) -> None:
    header = b"source,question,answer,rating\n"
    server.files[FIRST, "train.csv"] = header + b"s,.234341221434321,1234341221434321,3\n"
    server.files[FIRST, "test.csv"] = header + b"s,..34341221434321,1234341221434321,5\n"
    variables = os.environ | {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}

    def build(folder: str, **more: str) -> list[Any]:
        command = [sys.executable, "-c", BUILD, str(tmp_path / folder)]
        done = subprocess.run(command, env=variables | more, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert PLANTED not in done.stdout + done.stderr
        return list(json.loads(done.stdout))

    made, facts, refusal = build("first")
    assert facts["train_csv_sha256"] == hashlib.sha256(server.files[FIRST, "train.csv"]).hexdigest()
    assert facts["test_csv_revision"] == FIRST
    assert facts["disjoint_up_to_symmetry"] is True
    assert "way out: pip install numba" in refusal
    asked = len(server.requests)
    assert build("second", HF_HUB_OFFLINE="1")[0] == made
    assert len(server.requests) == asked
    (folder,) = (tmp_path / "second").glob("hub-*")
    assert not any(PLANTED.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
