import os

import pytest

from dqo.files.atomic import remove, replacing, replacing_folder, sweep


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")
    with replacing(path) as new:
        new.write_text("half")
        assert path.read_text() == "old" and new.suffix == ".json"
        new.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(OSError, match="full"), replacing(path) as new:
        new.write_text("half")
        raise OSError("full")
    assert (path.read_text(), names(tmp_path)) == ("whole", ["summary.json"])


def test_a_folder_is_replaced_when_complete_and_its_files_follow_the_umask(tmp_path):
    folder = tmp_path / "run" / "policy"
    (tmp_path / "run" / ".new-policy").mkdir(parents=True)  # left by a killed process
    (tmp_path / "run" / ".new-policy" / "half").touch()
    before = os.umask(0o027)
    try:
        for text in ("old", "new"):
            with replacing_folder(folder) as new:
                (new / "weights").touch(mode=0o600)
                (new / text).touch()
    finally:
        os.umask(before)
    assert (names(folder), names(folder.parent)) == (["new", "weights"], ["policy"])
    assert (folder / "weights").stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="full"), replacing_folder(folder) as new:
        raise OSError("full")
    assert (names(folder), names(folder.parent)) == (["new", "weights"], ["policy"])


def test_sweep_removes_only_what_killed_processes_left(tmp_path):
    for name in (".new-a", ".old-b", "c", ".lock"):
        (tmp_path / name).mkdir()
    (tmp_path / ".old-b" / "file").touch()
    (tmp_path / ".new-d").touch()
    remove(tmp_path / "c")
    sweep(tmp_path)
    assert names(tmp_path) == [".lock"]
