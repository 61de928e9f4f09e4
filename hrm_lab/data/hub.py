"""Files of dataset repositories on the Hugging Face hub: fetched through its client, and checked byte by byte.

A file is named by repository, file name and commit, so what it holds is settled before anything is fetched: the key of
a dataset and the signature of a run need no network. The client keeps it in its cache (HF_HOME); from then on it is
read from there, with or without network. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are the client's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hrm_lab.errors import DataError, one_line, require
from hrm_lab.redaction import redact

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file of the hub on this machine."""

    path: Path
    sha256: str
    revision: str  # commit

    def facts(self, name: str) -> dict[str, str]:
        """What a dataset remembers of it (`DatasetInfo.build`)."""
        return {f"{name}_sha256": self.sha256, f"{name}_revision": self.revision}


def require_commit(repo: str | None, revision: str | None) -> None:
    """Refuse data.hub_revision unless it is a commit: branches and tags may mean other bytes tomorrow.

    Raises:
        ConfigError: that says where the commits are listed.
    """
    require(
        revision is not None and COMMIT.fullmatch(revision) is not None,
        "data.hub_revision",
        revision,
        "data.source=hub needs the commit that the files are to be of, 40 hex digits",
        f"take one of https://huggingface.co/datasets/{repo}/commits/main",
    )


def fetch(
    repo: str, filename: str, revision: str, *, endpoint: str | None = None, cache: str | Path | None = None
) -> HubFile:
    """A file of a dataset repository, from the client's cache or else from the hub.

    Its bytes are compared with the checksum that the hub announced: SHA-256 for large files, Git's SHA-1 for others.

    Args:
        repo: OWNER/NAME.
        filename: inside the repository.
        revision: commit, or a branch or tag, which is asked for anew each time while there is a network.
        endpoint: address of the hub; None = HF_ENDPOINT, else the public one.
        cache: folder of the client's cache; None = below HF_HOME.

    Raises:
        DataError: when it cannot be had, or is not what the hub announced.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise DataError(
            f"{repo}: the client of the Hugging Face hub cannot be loaded: {error}\n"
            "  way out: pip install 'hrm-lab[hub]', or fetch the files yourself and take data.source=csv"
        ) from error
    place = f"{repo}/{filename} at {revision}"
    with _told(place, repo, filename, revision):
        named = {"repo_type": "dataset", "revision": revision, "endpoint": endpoint}
        path = Path(hf_hub_download(repo, filename, cache_dir=cache, **named))  # type: ignore[call-overload]
        if path.is_symlink():  # snapshots/COMMIT/FILE -> blobs/CHECKSUM, as the client documents its cache
            announced = Path(os.readlink(path)).name
        else:  # a file system without links
            announced = str(get_hf_file_metadata(hf_hub_url(repo, filename, **named)).etag)
    commit = path.parents[filename.count("/")].name
    if COMMIT.fullmatch(revision) and commit != revision:
        raise DataError(
            f"{place}: the hub sent it as of commit {commit}\n  way out: ask for that one: data.hub_revision={commit}"
        )
    return HubFile(path, _checked(path, announced, place), commit)


@contextmanager
def _told(place: str, repo: str, filename: str, revision: str) -> Iterator[None]:
    """What the client raises, said with a way out. Its texts may quote addresses with keys in them."""
    from huggingface_hub import errors

    command = f"hf download {repo} {filename} --repo-type dataset --revision {revision}"
    try:
        yield
    except errors.RevisionNotFoundError:
        problem, way_out = "there is no such revision", "correct data.hub_revision"
    except errors.RepositoryNotFoundError:
        problem = "there is no such repository, or it is closed to you"
        way_out = "correct data.hub_repo, or log in: `hf auth login`, or HF_TOKEN"
    except errors.RemoteEntryNotFoundError:
        problem, way_out = "the repository has no such file", "correct data.hub_repo or data.hub_revision"
    except errors.HFValidationError as error:
        problem, way_out = f"is no name of a repository: {redact(str(error))}", "set data.hub_repo=OWNER/NAME"
    except errors.LocalEntryNotFoundError:
        problem = "the hub cannot be reached, and no copy is in the cache of its client"
        way_out = f"run `{command}` where there is a network and the same HF_HOME, or take data.source=csv"
    except Exception as error:  # whatever its HTTP library raises too
        problem, way_out = redact(one_line(error)), f"try again, or see what `{command}` says"
    else:
        return
    raise DataError(f"{place}: {problem}\n  way out: {way_out}") from None


def _checked(path: Path, announced: str, place: str) -> str:
    """The SHA-256 of a file whose bytes are those that were announced."""
    size, sha256 = path.stat().st_size, hashlib.sha256()
    git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    is_large = _SHA256.fullmatch(announced) is not None
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            sha256.update(piece)
            if not is_large:
                git.update(piece)
    found = sha256.hexdigest() if is_large else git.hexdigest()
    if found != announced:
        raise DataError(
            f"{place}: its bytes have checksum {found[:16]}, the hub announced {announced[:16]}: damaged or cut off\n"
            f"  way out: delete {path.resolve()} and try again"
        )
    return sha256.hexdigest()
