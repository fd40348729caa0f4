"""Who is at which case: a locked file per case that is being done, free again when its process ends or is killed."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows: nothing is claimed; a case may then be done twice at once, and is written once
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Whether the case of this file is ours. What a killed process leaves behind says how often the case was begun.

    The lock is the system's (flock), so nothing has to be judged stale; on a file system without locks everything
    counts as ours, and of two writers of one case the first stays (io.new_folder).
    """
    if fcntl is None:
        yield True
        return
    with path.open("a+b") as file:
        ours = _lock(file, path)
        try:
            if ours:
                begun = {"begun": attempts(path) + 1, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
                file.truncate(0)
                file.write(json.dumps(begun).encode())
                file.flush()
            yield ours
        finally:  # also after an error, which is not a kill
            if ours:
                path.unlink(missing_ok=True)  # still locked: who opened it meanwhile sees that its file is gone


def _lock(file: BinaryIO, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:  # its owner has just finished
        return False


def is_held(path: Path) -> bool:
    """Whether a living process is at the case."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def attempts(path: Path) -> int:
    """How often the case was begun by processes that were killed at it."""
    try:
        found: Any = json.loads(path.read_bytes())
        return int(found["begun"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
