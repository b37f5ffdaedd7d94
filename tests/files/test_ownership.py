import errno
import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest

from dqo.errors import ConfigError, StageError
from dqo.files.ownership import Ownership, own


def test_a_second_run_is_refused_with_the_name_of_the_first(tmp_path):
    run = tmp_path / "runs" / "a"
    first = own(run)
    with pytest.raises(ConfigError, match=rf"run_dir={run} is in use by process {os.getpid()} on .* since 2.*; wait"):
        own(run)
    first.release()
    own(run).release()


def test_a_worker_keeps_the_lock_after_its_launcher_has_ended(tmp_path):
    """The lock belongs to the open file: it lasts until both have closed it."""
    launcher = own(tmp_path)
    sleeper = "import sys; print(flush=True); sys.stdin.read()"
    worker = subprocess.Popen(
        [sys.executable, "-c", sleeper], pass_fds=[launcher.descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout and worker.stdout.readline()
    launcher.release()
    with pytest.raises(ConfigError, match="is in use"):
        own(tmp_path)
    worker.communicate()
    own(tmp_path).release()


def test_other_child_processes_do_not_inherit_the_lock(tmp_path):
    owner = own(tmp_path)
    code = f"import os; os.fstat({owner.descriptor})"
    done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True)
    assert "Bad file descriptor" in done.stderr
    owner.release()


def _own_and_hold(folder, results, done):
    try:
        owner = own(folder)
    except ConfigError:
        results.put(0)
    else:
        results.put(1)
        done.wait()
        owner.release()


def test_of_several_processes_exactly_one_gets_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    results, done = context.Queue(), context.Event()
    processes = [context.Process(target=_own_and_hold, args=(tmp_path / "run", results, done)) for _ in range(8)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=30) for _ in processes) == [0] * 7 + [1]
    done.set()
    for process in processes:
        process.join()


def test_a_folder_removed_by_its_last_owner_is_created_again(tmp_path, monkeypatch):
    """The folder is removed between opening the lock file and locking it: the lock of a deleted file is worthless."""
    run, flock = tmp_path / "run", fcntl.flock

    def remove_first(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(run)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    own(run).check()


def test_a_removed_or_replaced_folder_is_noticed(tmp_path):
    run = tmp_path / "run"
    first = own(run)
    first.check()
    shutil.rmtree(run)
    with pytest.raises(StageError, match="was removed, moved or replaced during the run"):
        first.check()
    second = own(run)
    with pytest.raises(StageError, match="was removed, moved or replaced"):
        first.check()
    second.check()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run_dir=.*file/run: cannot be written \(Not a directory\); type run_dir="):
        own(tmp_path / "file" / "run")


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert isinstance(own(tmp_path), Ownership)
    assert "no file locks on this file system; a second run in this folder will not be noticed" in caplog.text


def test_that_a_run_has_begun_is_seen_by_whoever_shares_the_lock_and_forgotten_by_the_next(tmp_path):
    owned = own(tmp_path)
    worker = Ownership(tmp_path, os.dup(owned.descriptor))
    worker.sign()
    assert not owned.has_begun
    worker.begin()
    assert owned.has_begun and worker.has_begun
    with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on [^\n]* since [\d: -]*; wait"):
        own(tmp_path)
    worker.release()
    owned.release()
    again = own(tmp_path)
    assert not again.has_begun
    again.release()
