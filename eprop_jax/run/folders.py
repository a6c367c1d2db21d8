"""Numbered folders and files that are whole or not there, and one process at a time to write them.

A checkpoint is written under an unfinished name, with the SHA-256 of each of its files, brought to
the disk, and renamed. What it replaces is put aside first and removed last, so that at every instant
the old one or the new one is whole and found:

    000000007              step 7
    .unfinished-000000007  being written
    .old-000000007         was step 7, and is still, until the new one has its name
    .trash-000000007       no checkpoint any more, on its way out
    000000007.not-whole    bore the name of step 7 and was none of ours, or broken: kept for its owner

What a killed process left is put right by the next that writes. Reading changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock is taken there
    fcntl = None

SUMS = "SHA256.json"
LOCK = ".lock"
NAME = re.compile(r"[0-9]{9,}")
LEFT = re.compile(r"\.(unfinished|trash|old)-([0-9]+)(-[0-9]+)?")
PATIENCE = 1.0
"""seconds: a process that was killed a moment ago may still hold its lock"""


# -- finding ---------------------------------------------------------------------------------------


def at(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def aside(folder: Path, step: int) -> Path:
    return folder / f".old-{step:09d}"


def named(folder: Path) -> list[int]:
    """The steps whose names stand in a folder, whole or not, ascending."""
    if not folder.is_dir():
        return []
    found = set()
    for path in folder.iterdir():
        left = LEFT.fullmatch(path.name)
        if NAME.fullmatch(path.name) and path.name == f"{int(path.name):09d}" and path.is_dir():
            found.add(int(path.name))
        elif left and left[1] == "old" and whole(path):
            found.add(int(left[2]))
    return sorted(found)


def find(folder: Path, step: int) -> Path | None:
    """Where a step is whole. Its name is asked for twice: it may be put in place between."""
    places = (at(folder, step), aside(folder, step), at(folder, step))
    return next((path for path in places if whole(path)), None)


def whole(path: Path) -> bool:
    """Are the files there that its sums name? What is in them is `verify`'s to say."""
    found = expected(path)
    return bool(found) and all((path / name).is_file() for name in found)


def expected(path: Path) -> dict[str, str]:
    """{file: SHA-256}; {} where there is no such record."""
    try:
        found = json.loads((path / SUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sums(path: Path) -> dict[str, str]:
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != SUMS)
    return {
        f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def verify(path: Path) -> None:
    """Refuse a checkpoint of which a byte is not as it was written."""
    wanted = expected(path)
    if not wanted:
        raise ValueError(
            f"folder: {path} has no readable {SUMS}; wanted a checkpoint that ej.checkpoints.save wrote"
        )
    found = sums(path)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = "was changed or cut short"
            what = what if name in found else "is missing"
            what = what if name in wanted else "was not written with it"
            raise ValueError(f"folder: in the checkpoint {path}, {name} {what}; wanted it as saved")


# -- writing ---------------------------------------------------------------------------------------


def put(folder: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Make the folder of a step; `fill` writes its files. The caller holds the lock."""
    unfinished, final = folder / f".unfinished-{step:09d}", at(folder, step)
    discard(unfinished)
    unfinished.mkdir()
    fill(unfinished)
    (unfinished / SUMS).write_text(json.dumps(sums(unfinished), indent=1))
    sync(*unfinished.rglob("*"), unfinished)
    if whole(final):
        os.rename(final, aside(folder, step))
    elif os.path.lexists(final):
        os.rename(final, free(folder, f"{final.name}.not-whole"))
    os.rename(unfinished, final)
    sync(folder)
    discard(aside(folder, step))
    return final


def recover(folder: Path) -> None:
    """Put right what killed processes left. The caller holds the lock: nobody writes here now."""
    for path in sorted(folder.iterdir()):
        left = LEFT.fullmatch(path.name)
        if left and left[1] == "old" and whole(path) and not whole(at(folder, int(left[2]))):
            final = at(folder, int(left[2]))
            if os.path.lexists(final):
                os.rename(final, free(folder, f"{final.name}.not-whole"))
            os.rename(path, final)
        elif left:
            discard(path)


def discard(path: Path) -> None:
    """Out of sight first: a folder that is half deleted never bears a name that is looked for."""
    if not os.path.lexists(path):
        return
    if not path.name.startswith(".trash-"):
        path = path.rename(free(path.parent, f".trash-{re.sub('[^0-9]', '', path.name)}"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def free(folder: Path, name: str) -> Path:
    """This name, or the first of those numbered from it that nothing bears."""
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(1)))
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    sync(unfinished)
    os.replace(unfinished, path)


def sync(*paths: Path) -> None:
    """To the disk, so that a machine that stops does not leave a name to nothing."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# -- one process at a time -------------------------------------------------------------------------

_held: dict[tuple[int, str], list[int]] = {}  # (process, folder): [its lock, how often it is held]
_guard = threading.RLock()
one_thread = threading.RLock()
"""held while a checkpoint is written: the lock on a folder tells processes apart, not threads"""


@contextlib.contextmanager
def lock(folder: Path, name: str = "folder") -> Iterator[None]:
    """Hold a folder against other processes; within one, it may be held many times over.

    The lock is the system's, on a file that says who holds it: that of a process that died is free.
    Where the system knows no locks, nothing is held.

    Raises:
      BlockingIOError: if another process holds it.
    """
    key = (os.getpid(), os.path.realpath(folder))
    with _guard:
        if key not in _held:
            _held[key] = [_take(Path(folder), name), 0]
        _held[key][1] += 1
    try:
        yield
    finally:
        with _guard:
            _held[key][1] -= 1
            if not _held[key][1]:
                handle, _ = _held.pop(key)
                if handle >= 0:
                    os.close(handle)


def _take(folder: Path, name: str) -> int:
    """The lock's file, open; -1 where there are no locks."""
    if fcntl is None:
        return -1
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + PATIENCE
        while not _locked(handle):
            if time.monotonic() > until:
                who = os.pread(handle, 200, 0).decode(errors="replace").strip()
                raise BlockingIOError(
                    f"{name}: got {folder}, which {who or 'another process'} is writing to; "
                    "wanted a folder of its own, or that process ended"
                )
            time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return -1
        raise
    except BaseException:  # a Ctrl-C: what is open would stay locked
        os.close(handle)
        raise
    return handle


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # pyright: ignore
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
