"""Saves that die at every step of the way: nothing that was whole is lost, and the next one works."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

from eprop_jax import checkpoints
from eprop_jax.run import folders

ROOT = pathlib.Path(__file__).parents[1]
STEPS = ("rename", "replace", "mkdir", "rmdir", "unlink", "remove", "fsync", "ftruncate", "pwrite")
LIKE = {"w": np.zeros(3), "n": 0}


def tree(value):
    return {"w": np.full(3, float(value)), "n": value}


class Killed(BaseException):
    """No process catches it."""


class Fate:
    """Counts what is done to the file system, and ends it at the `at`-th."""

    def __init__(self, at, error):
        self.at, self.error, self.done, self.log = at, error, 0, []

    def __call__(self, what):
        self.log.append(what)
        self.done += 1
        if self.error is Killed and self.done > self.at:
            raise Killed  # the dead do nothing more
        if self.error is not Killed and self.done == self.at + 1:
            raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def fate(at, error=Killed):
    """Within, the process (or its disk) is at the end of its life after so many steps."""
    count = Fate(at, error)
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            real = getattr(os, name)

            def counted(*args, real=real, name=name, **kw):
                count(name)
                return real(*args, **kw)

            patch.setattr(os, name, counted)

        def write_text(path, text, encoding=None):
            for part in ("", text[: len(text) // 2], text):  # opened, torn, whole
                count("write")
                with open(path, "w", encoding=encoding) as file:
                    file.write(part)

        patch.setattr(pathlib.Path, "write_text", write_text)
        yield count


class Plain:
    """In orbax's place, so that hundreds of saves take seconds."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def save(self, path, stored):
        path.mkdir()
        for name, x in stored.items():
            (path / name).write_text(json.dumps([str(x.dtype), x.tolist()]), encoding="utf-8")

    def metadata(self, path):
        found = {f.name: json.loads(f.read_text()) for f in path.iterdir()}
        return {name: np.asarray(x, dtype) for name, (dtype, x) in found.items()}

    def restore(self, path, like):
        return self.metadata(path)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(checkpoints, "_orbax", Plain)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no machine stops here


def kept(folder, *steps):
    for step in steps:
        checkpoints.save(folder, tree(step), step)


def cut_off(folder):
    """As two killed processes leave it: step 2 put aside and not replaced, rubbish beside it."""
    kept(folder, 1, 2)
    os.rename(folders.at(folder, 2), folders.aside(folder, 2))
    for left in (".unfinished-000000002", ".trash-000000001-1", ".unfinished-3-1234"):
        (folder / left / "tree").mkdir(parents=True)
        (folder / left / "tree" / "0").write_text("half of")


SAVES = {  # what is there, the step that is saved, how many are kept, what may be gone after it
    "first": (lambda folder: None, 1, None, set()),
    "next": (lambda folder: kept(folder, 1), 2, None, set()),
    "replace": (lambda folder: kept(folder, 1, 2), 2, None, set()),
    "replace the only one": (lambda folder: kept(folder, 1), 1, 1, set()),
    "prune": (lambda folder: kept(folder, 1, 2, 3), 4, 2, {1, 2}),
    "replace and prune": (lambda folder: kept(folder, 1, 2, 3), 3, 1, {1, 2}),
    "an early step": (lambda folder: kept(folder, 1, 2, 3), 2, 1, {1}),
    "over what was cut off": (cut_off, 2, 1, {1}),
}
NEW = 99


def read(folder, step=None):
    found = checkpoints.restore(folder, LIKE, step)
    assert found["w"].tolist() == [found["n"]] * 3
    return found["n"]


def hidden(folder):
    return sorted(p.name for p in folder.iterdir() if p.name[0] == "." and p.name != folders.LOCK)


@pytest.mark.filterwarnings("ignore:.*holds later steps")
@pytest.mark.parametrize("error", [Killed, OSError], ids=["killed", "disk full"])
@pytest.mark.parametrize("name", SAVES)
def test_a_save_that_dies_at_any_step_loses_nothing_that_was_whole(plain, tmp_path, name, error):
    begin, step, keep, prunes = SAVES[name]
    begun = tmp_path / "begun"
    begun.mkdir()
    begin(begun)
    before = {s: read(begun, s) for s in checkpoints.steps(begun)}
    for at in range(10_000):
        folder = tmp_path / str(at)
        shutil.copytree(begun, folder)
        died = True
        with fate(at, error) as count, contextlib.suppress(error):
            checkpoints.save(folder, tree(NEW), step, keep=keep)
            died = False
        after = {s: read(folder, s) for s in checkpoints.steps(folder)}
        assert sorted(after) == folders.named(folder), "half of one bears a step's name"
        assert after.get(step) in {before.get(step), NEW}, count.log[-3:]
        assert died or after[step] == NEW
        for s in before.keys() - prunes - {step}:
            assert after[s] == before[s], count.log[-3:]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none of those that bear a step's name is broken
            if after:
                assert read(folder) == after[max(after)]
        assert max(after, default=0) >= max(before, default=0)

        again = checkpoints.save(folder, tree(NEW + 1), step, keep=keep)
        assert read(folder, step) == NEW + 1 and not hidden(folder)
        assert {again.name} | {folders.LOCK} <= {p.name for p in folder.iterdir()}
        assert not list(folder.glob("*.not-whole*"))
        assert set(checkpoints.steps(folder)) == (before.keys() | {step}) - prunes
        shutil.rmtree(folder)
        if count.done <= at:  # it lived to the end
            break
    assert count.log.count("rename") >= 1 and at > 20


def test_it_may_die_twice(plain, tmp_path):
    """At any step of a replacement, and then at any of the next."""
    kept(tmp_path / "begun", 1, 2)
    with fate(10_000) as count:
        checkpoints.save(tmp_path / "begun", tree(2), 2)
    for first in range(0, count.done, 3):
        once = tmp_path / "once"
        shutil.copytree(tmp_path / "begun", once)
        with fate(first), contextlib.suppress(Killed):
            checkpoints.save(once, tree(NEW), 2)
        for second in range(first % 9, count.done + 20, 9):
            twice = tmp_path / "twice"
            shutil.copytree(once, twice)
            with fate(second), contextlib.suppress(Killed):
                checkpoints.save(twice, tree(NEW + 1), 2)
            assert checkpoints.steps(twice) == [1, 2] and read(twice) in (2, NEW, NEW + 1)
            shutil.rmtree(twice)
        shutil.rmtree(once)


SAVE_AND_DIE = """
import os, pathlib, sys
import numpy as np
from eprop_jax import checkpoints
folder, rename = sys.argv[1], os.rename
checkpoints.save(folder, {"w": np.full(3, 1.0), "n": 1}, 1)
def dies(old, new):
    if ".unfinished-000000001" == pathlib.Path(old).name:
        os._exit(9)
    rename(old, new)
os.rename = dies
checkpoints.save(folder, {"w": np.full(3, 99.0), "n": 99}, 1)
"""


def test_a_process_that_dies_with_the_old_one_put_aside(tmp_path):
    """With orbax, and with the lock of a process that is really gone."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAVE_AND_DIE, str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=600,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr[-2000:]
    assert hidden(tmp_path) == [".old-000000001", ".unfinished-000000001"]
    assert checkpoints.steps(tmp_path) == [1] and read(tmp_path) == 1
    checkpoints.save(tmp_path, tree(2), 2, keep=2)
    assert checkpoints.steps(tmp_path) == [1, 2] and read(tmp_path, 1) == 1
    assert not hidden(tmp_path)


# -- what is none of ours --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*holds later steps")
def test_an_early_step_is_kept_when_later_ones_stand_there(plain, tmp_path):
    kept(tmp_path, 5, 10, 15)
    with pytest.warns(UserWarning, match="holds later steps, up to 15"):
        checkpoints.save(tmp_path, tree(8), 8, keep=1)
    assert checkpoints.steps(tmp_path) == [8, 10, 15]
    checkpoints.save(tmp_path, tree(NEW), 10, keep=2)
    assert checkpoints.steps(tmp_path) == [8, 10, 15] and read(tmp_path, 10) == NEW
    checkpoints.save(tmp_path, tree(20), 20, keep=2)
    assert checkpoints.steps(tmp_path) == [15, 20]


def test_foreign_folders_and_files_are_never_touched_nor_chosen(plain, tmp_path):
    for name in ("2024", "7", "٣", "000000003x", "1e9", "-1", "0000000002", ".old-2", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / "000000009").write_text("a file")
    assert checkpoints.steps(tmp_path) == []
    for step in (1, 2, 3, 9):
        checkpoints.save(tmp_path, tree(step), step, keep=1)
    assert checkpoints.steps(tmp_path) == [9] and read(tmp_path) == 9
    for name in ("2024", "7", "٣", "000000003x", "1e9", "-1", "0000000002", "notes"):
        assert (tmp_path / name / "mine").read_text() == "mine"
    assert (tmp_path / "000000009.not-whole").read_text() == "a file"


def test_what_bears_a_step_s_name_and_is_not_whole_is_passed_over_and_kept(plain, tmp_path):
    kept(tmp_path, 1, 2)
    for step in (3, 4):
        foreign = folders.at(tmp_path, step)
        foreign.mkdir()
        (foreign / "mine").write_text("mine")
    kept(tmp_path / "half", 5)
    os.rename(tmp_path / "half" / "000000005", folders.at(tmp_path, 5))
    (folders.at(tmp_path, 5) / "tree" / "0").unlink()  # as a kill in the middle of a deletion
    assert checkpoints.steps(tmp_path) == [1, 2]
    with pytest.warns(
        UserWarning, match=r"step 2 is the last that is whole: .*000000005, tree/0 is m"
    ):
        assert read(tmp_path) == 2
    for step in (3, 5):
        with pytest.raises(ValueError, match=f"00000000{step}.*wanted"):
            read(tmp_path, step)
    with pytest.warns(UserWarning, match="later steps"):
        checkpoints.save(tmp_path, tree(3), 3, keep=2)
    assert checkpoints.steps(tmp_path) == [2, 3] and read(tmp_path, 3) == 3
    assert (tmp_path / "000000003.not-whole" / "mine").read_text() == "mine"
    assert (folders.at(tmp_path, 4) / "mine").read_text() == "mine"


def test_a_last_one_that_was_changed_is_passed_over_with_a_warning(plain, tmp_path):
    kept(tmp_path, 1, 2)
    (folders.at(tmp_path, 2) / "tree" / "0").write_text('["float64", [7, 7, 7]]')
    with pytest.warns(UserWarning, match="step 1 is the last that is whole: .*tree/0 was changed"):
        assert read(tmp_path) == 1
    with pytest.raises(ValueError, match="tree/0 was changed"):
        read(tmp_path, 2)


def test_reading_changes_nothing(plain, tmp_path):
    cut_off(tmp_path)
    there = sorted(str(p) for p in tmp_path.rglob("*"))
    assert checkpoints.steps(tmp_path) == [1, 2] and read(tmp_path) == read(tmp_path, 2) == 2
    assert sorted(str(p) for p in tmp_path.rglob("*")) == there


# -- two processes ---------------------------------------------------------------------------------

HOLD = """
import sys, time
from eprop_jax.run import folders
with folders.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_dead(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"process {other.pid} on .*wanted"):
            checkpoints.save(tmp_path, tree(1), 1)
        assert checkpoints.steps(tmp_path) == []
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    checkpoints.save(tmp_path, tree(1), 1)
    assert read(tmp_path) == 1


def test_one_process_may_hold_a_folder_many_times_over(plain, tmp_path):
    with folders.lock(tmp_path):
        with folders.lock(tmp_path):
            checkpoints.save(tmp_path, tree(1), 1)
        held = subprocess.run(
            [sys.executable, "-c", HOLD.replace("100", "0")
             .replace("with", "folders.PATIENCE = 0.1\nwith"), str(tmp_path)],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        assert f"process {os.getpid()} on" in held.stderr
    assert not folders._held
    with folders.lock(tmp_path):
        pass


@pytest.mark.filterwarnings("ignore:.*holds later steps")
def test_threads_of_one_process_save_one_after_the_other(plain, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: checkpoints.save(tmp_path, tree(i % 3), i % 3), range(24)))
    assert [read(tmp_path, s) for s in (0, 1, 2)] == [0, 1, 2] and not hidden(tmp_path)
