"""TensorBoard's curves of one seed, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Log:
    """Writes each epoch's row; what a killed process wrote past its last checkpoint is taken back (purge_step)."""

    def __init__(self, folder: Path, epoch: int, writes: bool, say: Callable[[str], None]) -> None:
        self.writer: Any = None
        if not writes:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say('note: no curves for TensorBoard, which is not installed: pip install "radiolucent[train]"')
            return
        self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def epoch(self, row: Mapping[str, Any]) -> None:
        if self.writer is None:
            return
        for name, value in row.items():
            if isinstance(value, float):
                split, _, measure = name.partition("_")
                tag = f"{measure}/{split}" if measure else name
                self.writer.add_scalar(tag, value, row["epoch"])
        self.writer.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()
