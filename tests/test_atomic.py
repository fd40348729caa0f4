"""Files and folders appear whole or not at all: failing disks, raising bodies, killed processes."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.io import new_folder, put
from radiolucent.volume import Volume


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fill(path: Path, contents: dict[str, bytes], *, replace: bool = False, error: type[BaseException] | None = None) -> Path:
    """Make a folder of files, then raise `error`."""
    with new_folder(path, replace=replace) as folder:
        for name, content in contents.items():
            put(folder / name, content)
        if error:
            raise error
    return path


def test_put_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    assert put(path, b"one") == path
    put(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "read"])
def test_a_failing_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.bin"
    put(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk died")

    if failing == "read":
        monkeypatch.setattr(Path, "read_bytes", lambda self: b"rotten")
    else:
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="does not read back" if failing == "read" else "the disk died"):
        put(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(small_disk):
    path = small_disk / "map.nii"
    io.write(path, Volume(np.ones((1, 9, 9, 9), np.float32)))
    before = path.read_bytes()
    big = Volume(np.random.default_rng(0).normal(size=(1, 128, 128, 32)).astype(np.float32))
    with pytest.raises(OSError, match="No space left") as caught:
        io.write(path, big)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert names(small_disk) == ["map.nii"]


def test_a_full_disk_leaves_no_folder(small_disk):
    with pytest.raises(OSError, match="No space left"):
        fill(small_disk / "case", {"fits": b"x" * 1000, "does not": b"x" * 2_000_000})
    assert names(small_disk) == []


def test_files_and_folders_get_the_permissions_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        put(tmp_path / "file", b"")
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_writing_never_touches_the_umask_that_other_threads_share(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("os.umask changes the whole process"))
    put(tmp_path / "file", b"")
    with new_folder(tmp_path / "folder"):
        pass


def test_names_as_long_as_the_file_system_allows(tmp_path):
    name = "n" * 251 + ".nii"
    put(tmp_path / name, b"content")
    with new_folder(tmp_path / ("f" * 255)) as folder:
        put(folder / "a", b"")
    assert names(tmp_path) == sorted([name, "f" * 255])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"a folder at .*nowhere; got nothing there"):
        io.write(tmp_path / "nowhere" / "a.nii", Volume(np.ones((1, 2, 2, 2))))


def test_a_folder_is_invisible_until_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "case"
    with new_folder(path) as folder:
        put(folder / "a", b"1")
        assert not path.exists()
    assert (path / "a").read_bytes() == b"1"
    assert names(path.parent) == ["case"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("replace", [False, True])
def test_a_raising_body_leaves_what_was_there(tmp_path, error, replace):
    path = tmp_path / "case"
    if replace:
        path.mkdir()
        (path / "old").write_bytes(b"old")
    with pytest.raises(error):
        fill(path, {"new": b"new"}, replace=replace, error=error)
    assert names(tmp_path) == (["case"] if replace else [])
    if replace:
        assert names(path) == ["old"]


def test_replacing_takes_all_of_the_old_away(tmp_path):
    path = tmp_path / "case"
    for name in ("one", "two"):
        with new_folder(path, replace=True) as folder:
            put(folder / name, b"")
    assert names(path) == ["two"]
    assert names(tmp_path) == ["case"]


def test_a_failing_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "case"
    with new_folder(path) as folder:
        put(folder / "old", b"old")
    rename = os.rename

    def second_fails(source: Path, target: Path) -> None:
        if Path(target) == path and Path(source).suffix == ".tmp":
            raise OSError(errno.EIO, "the disk died")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="the disk died"), new_folder(path, replace=True) as folder:
        put(folder / "new", b"new")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["case"]


def test_where_even_that_fails_the_old_folder_is_not_deleted(tmp_path, monkeypatch):
    path = tmp_path / "case"
    with new_folder(path) as folder:
        put(folder / "old", b"old")
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise OSError(errno.EIO, "the disk died")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="the disk died"), new_folder(path, replace=True):
        pass
    assert [p.read_bytes() for p in tmp_path.rglob("old")] == [b"old"]


def test_a_folder_that_holds_files_is_refused_and_an_empty_one_taken(tmp_path):
    path = tmp_path / "case"
    path.mkdir()
    with new_folder(path) as folder:
        put(folder / "a", b"")
    with pytest.raises(BadInput, match=r"no folder yet at .*one that holds files.*overwrite"), new_folder(path):
        pytest.fail("the body must not run")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="no folder yet at"), new_folder(tmp_path / "file"):
        pytest.fail("the body must not run")
    assert names(path) == ["a"]


def test_the_current_folder_is_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(), tmp_path):
        with pytest.raises(BadInput, match="holds the current folder"), new_folder(path, replace=True):
            pytest.fail("the body must not run")
    assert names(tmp_path / "here") == ["mine"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "far" / "disk").mkdir(parents=True)
    (tmp_path / "case").symlink_to(tmp_path / "far" / "disk")
    with new_folder(tmp_path / "case", replace=True) as folder:
        put(folder / "a", b"")
    assert (tmp_path / "case").is_symlink()
    assert names(tmp_path / "far" / "disk") == ["a"]
    assert names(tmp_path) == ["case", "far"]


def test_of_two_writers_of_one_folder_the_first_stays(tmp_path):
    path = tmp_path / "case"
    with pytest.raises(BadInput, match="no folder yet at"), new_folder(path) as slow:
        put(slow / fill(path, {"quick": b""}).name, b"")
    assert names(path) == ["quick"]
    assert names(tmp_path) == ["case"]


def test_many_threads_replace_one_file_and_it_is_always_whole(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([n]) * 50_000 for n in range(4)]
    put(path, contents[0])
    threads = [threading.Thread(target=lambda c=c: [put(path, c) for _ in range(10)]) for c in contents]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(path.read_bytes())
    assert set(seen) <= set(contents)
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_killed_process_leaves_no_folder_of_that_name(tmp_path, replace):
    path = tmp_path / "case"
    if replace:
        with new_folder(path) as folder:
            put(folder / "old", b"old")
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom radiolucent.io.atomic import new_folder, put\n"
        "with new_folder(Path(sys.argv[1]), replace=True) as folder:\n"
        "    put(folder / 'new', b'new')\n    print('inside', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "inside\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert path.exists() == replace
    if replace:
        assert names(path) == ["old"]
    with new_folder(path, replace=True) as folder:  # and it can be done again
        put(folder / "new", b"new")
    assert names(path) == ["new"]


KILLED = """
import os, sys, time
from pathlib import Path
from radiolucent.io import atomic
path, where = Path(sys.argv[1]), sys.argv[2]

def stop(*_):
    print("inside", flush=True)
    time.sleep(60)

if where == "between the renames":
    rename = os.rename
    os.rename = lambda a, b: stop() if Path(b) == path else rename(a, b)
if where == "in a file":
    os.replace = stop
    atomic.put(path, b"new")
with atomic.new_folder(path, replace=True) as folder:
    atomic.put(folder / "new", b"new")
    if where == "in a folder":
        stop()
"""


def kill(path: Path, where: str) -> None:
    """A process that writes to `path` and is killed on its way."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path), where], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "inside\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("where", ["in a folder", "between the renames", "in a file"])
def test_the_next_write_to_a_name_sweeps_what_a_killed_process_left_of_it(tmp_path, where):
    path = tmp_path / "ca[s]e*"
    kill(path, where) if where != "between the renames" else fill(path, {"old": b""})
    kill(path, where)
    hidden = {name for name in names(tmp_path) if name.startswith(".")}
    assert len(hidden) == (1 if where != "between the renames" else 2), "only the last one's: the second swept the first's"
    fill(tmp_path / "ca[s]e*2", {"a": b""})  # another name: not its own
    assert hidden <= set(names(tmp_path))
    put(path, b"") if where == "in a file" else fill(path, {"a": b""})
    assert names(tmp_path) == ["ca[s]e*", "ca[s]e*2"]


def test_a_folder_of_which_only_the_hidden_old_one_is_left_stays_until_a_new_one_stands(tmp_path):
    path = tmp_path / "case"
    fill(path, {"old": b"precious"})
    kill(path, "between the renames")
    assert not path.exists()
    with pytest.raises(RuntimeError):
        fill(path, {"new": b""}, error=RuntimeError)
    assert [p.read_bytes() for p in tmp_path.rglob("old")] == [b"precious"]


@pytest.mark.parametrize("of", ["a living process", "another machine"])
def test_what_may_still_be_written_to_is_not_swept(tmp_path, monkeypatch, of):
    from radiolucent.io import atomic

    path = tmp_path / "case"
    if of == "another machine":
        monkeypatch.setattr(atomic, "_machine", lambda: "00000000")
        dead = subprocess.Popen(["true"])
        dead.wait()
        monkeypatch.setattr(os, "getpid", lambda: dead.pid)
    temporary = atomic._beside(path, "tmp")
    temporary.mkdir()
    monkeypatch.undo()
    fill(path, {"a": b""})
    put(path / "a", b"")
    assert temporary.is_dir()
