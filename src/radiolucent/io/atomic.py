"""Files and folders that appear whole or not at all, also when the disk fills or the process is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from radiolucent.errors import BadInput

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:32]


def put(path: Path, content: bytes) -> Path:
    """Write bytes under a temporary name, flush them to the disk, read them back, then rename."""
    if not path.parent.is_dir():
        raise BadInput(f"a folder at {path.parent}", "nothing there" if not path.parent.exists() else "a file", "Create it first.")
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


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its name `path` at the end, or is gone if anything fails.

    With `replace`, all that `path` held goes; it stays until the new folder is whole.
    """
    path = path.resolve()  # a link is followed: what it points to is replaced, not the link
    if path.exists() and not path.is_dir():
        raise BadInput(f"no folder yet at {path}", "a file", "Choose another.")
    if path.exists() and not replace and any(path.iterdir()):
        raise _taken(path)
    if replace and Path.cwd().is_relative_to(path):
        raise BadInput("a folder that may be replaced", f"{path}, which holds the current folder", "Choose another.")
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """A hidden name that nothing has yet, in the same folder and so on the same disk; it says whose it is (see sweep)."""
    return path.parent / f".{path.name[:40]}.{_HOST}-{os.getpid()}.{secrets.token_hex(6)}.{suffix}"


def sweep(folder: Path, of: str = "") -> list[Path]:
    """Delete what killed processes left unfinished in a folder (of the file or folder named `of` only).

    Theirs is what carries this host's name and the number of a process that is gone, or is older than a day.
    """
    gone = []
    for path in folder.iterdir() if folder.is_dir() else ():
        name, owner, _, suffix = [*path.name.rsplit(".", 3), "", "", ""][:4]
        host, _, process = owner.rpartition("-")
        if suffix != "tmp" or not host or not process.isdecimal() or (of and name != f".{of[:40]}"):
            continue
        with contextlib.suppress(FileNotFoundError):  # its owner, or another sweeper, was quicker
            if (host == _HOST and not _runs(int(process))) or time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
                gone.append(path)
    return gone


def _runs(process: int) -> bool:
    if os.name == "nt":  # there the question itself would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system that does not say
        return True
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
