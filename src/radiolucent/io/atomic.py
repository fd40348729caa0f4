"""Files and folders that appear whole or not at all, also when the disk fills or the process is killed."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from radiolucent.errors import BadInput
from radiolucent.io.kinds import usable


def put(path: Path, content: bytes) -> Path:
    """Write bytes under a temporary name, flush them to the disk, read them back, then rename.

    What killed processes left of earlier writes to `path` goes.
    """
    usable(path)
    if not path.parent.is_dir():
        raise BadInput(f"a folder at {path.parent}", "nothing there" if not path.parent.exists() else "a file", "Create it first.")
    _sweep(path, "tmp")
    temporary = _beside(path, "tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise OSError(f"{path}: what was written does not read back")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def check_writable(folder: Path) -> None:
    """Make the folder, and refuse one that cannot be written to: before hours of work, not after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".radiolucent-{secrets.token_hex(6)}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput("a folder that can be written to", f"{folder}: {error}", "Choose another --out.") from None


def no_room(error: Exception) -> bool:
    """Whether it is the disk that fails and not the one who writes: everybody else would fail too."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its name `path` at the end, or is gone if anything fails.

    With `replace`, all that `path` held goes; it stays until the new folder is whole. What killed processes left of
    earlier writes to `path` goes too.
    """
    path = usable(path).resolve()  # a link is followed: what it points to is replaced, not the link
    if path.exists() and not path.is_dir():
        raise BadInput(f"no folder yet at {path}", "a file", "Choose another.")
    if path.exists() and not replace and any(path.iterdir()):
        raise _taken(path)
    if replace and Path.cwd().is_relative_to(path):
        raise BadInput("a folder that may be replaced", f"{path}, which holds the current folder", "Choose another.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path, "tmp")
    temporary = _beside(path, "tmp")
    try:
        temporary.mkdir()
        yield temporary
        _sync_folder(temporary)
        (_swap if replace else _name)(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)
    _sweep(path, "old")  # not before a new one stands: it may be all that there is


def _taken(path: Path) -> BadInput:
    return BadInput(f"no folder yet at {path}", "one that holds files", "Choose another, or pass overwrite.")


def _name(new: Path, path: Path) -> None:
    """Rename `new` to `path`, which is free or empty: another process may have been quicker, and its folder stays."""
    try:
        os.rename(new, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _taken(path) from None
        raise


def _swap(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what stood there is deleted only after the new one stands."""
    if not path.exists():
        os.rename(new, path)
        return
    old = _beside(path, "old")
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, suffix: str) -> Path:
    """A hidden name that nothing has yet, in the same folder and so on the same disk; it tells whose it is."""
    return path.parent / f"{_owned(path)}{os.getpid()}.{secrets.token_hex(6)}.{suffix}"


def _owned(path: Path) -> str:
    """What the hidden names of `path` begin with, up to the process: part of the name, all of it as a digest, the machine."""
    return f".{path.name[:40]}.{_digest(os.fsencode(path.name))}.{_machine()}."


@cache
def _machine() -> str:
    """Processes are told apart by their number only on one host, and there only within a container."""
    with suppress(OSError):
        return _digest(f"{platform.node()} {os.readlink('/proc/self/ns/pid')}".encode())
    return _digest(platform.node().encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=4).hexdigest()


def _sweep(path: Path, suffix: str) -> None:
    """Delete the hidden files and folders of `path` whose process is dead: it was killed while it wrote."""
    if os.name == "nt":  # where os.kill ends a process instead of asking for it
        return
    begin = _owned(path)
    with os.scandir(path.parent) as found:
        left = [entry for entry in found if entry.name.startswith(begin) and entry.name.endswith(f".{suffix}")]
    for entry in left:
        if _is_dead(int(entry.name.removeprefix(begin).partition(".")[0])):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)


def _is_dead(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
