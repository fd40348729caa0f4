"""Many passes in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from radiolucent.errors import BadInput, warn
from radiolucent.hooks import out_of_memory
from radiolucent.scoring.watching import tell

Made = TypeVar("Made")

VOXELS = 2**20
"""Of the input, for batch=0: how many share a forward pass. More gain nothing on a processor, and cost its memory."""

NUMBERS = 2**24
"""In the largest tensor on the way, for batch=0, where only a part of the network runs: 64 MiB in single precision."""

COPIES = 16
"""At once at most, for batch=0: on a processor 80 small images in one pass take a sixth longer each than 16."""


def share(batch: int, one: int, most: int) -> int:
    """How many copies go through the model at once: `batch`, or for 0 as many of size `one` as make `most`, up to COPIES."""
    return batch or max(1, min(COPIES, most // max(1, one)))


def in_chunks(count: int, size: int, work: Callable[[range], Made], *, told: bool = True) -> Iterator[tuple[range, Made]]:
    """(which, work(which)) for 0 to count - 1 in ranges of `size`, which is halved wherever memory runs out.

    `work` must not leave anything behind when it fails, since it is then asked again for less. Whoever watches hears
    of each range, unless not `told`.
    """
    if told:
        tell(0, count)
    start, size = 0, min(size, count)
    while start < count:
        which = range(start, min(start + size, count))
        full = ""
        try:
            made = work(which)
        except Exception as error:
            full = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
            if not out_of_memory(error):
                if len(which) == 1 or isinstance(error, BadInput):
                    raise
                size = 1  # an exported model may be bound to its batch
                continue
        if not full:  # outside the handler, whose traceback holds on to the memory
            yield which, made
            start = which.stop
            if told:
                tell(start, count)
        elif len(which) > 1:
            size = len(which) // 2
            warn(f"memory for {len(which)} copies at once ran out ({full}): going on with {size}")
        else:
            raise BadInput("memory for one forward pass of the input", full, "Explain fewer or smaller images at once.")
