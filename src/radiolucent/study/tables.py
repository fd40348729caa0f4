"""The tables of a study: their columns, and Parquet whose bytes depend on nothing but the rows."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from radiolucent.errors import BadInput

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()

SCHEMAS = {
    "regions": pa.schema(
        {
            **dict.fromkeys(("case", "method", "layer", "target", "region"), _TEXT),
            "label": _WHOLE,
            **dict.fromkeys(("hemisphere", "kind"), _TEXT),
            **dict.fromkeys(("mass_fraction", "positive", "negative", "density", "enrichment"), _REAL),
            "voxels": _WHOLE,
            "volume_mm3": _REAL,
        }
    ),
    "cases": pa.schema(
        {
            **dict.fromkeys(("case", "target"), _TEXT),
            "score": _REAL,
            "voxels_predicted": _WHOLE,
            **dict.fromkeys(("volume_mm3_predicted", "dice", "iou", "hd95_mm"), _REAL),
            "reason": _TEXT,
        }
    ),
    "costs": pa.schema(
        {
            **dict.fromkeys(("case", "method", "layer"), _TEXT),
            "seconds": _REAL,
            "shared_by_methods": _WHOLE,
            "peak_memory_mib": _REAL,
        }
    ),
}
"""Timing has a table of its own, so that regions and cases are the same bytes whenever and wherever they were made."""

_AT_ONCE = 500  # parts in memory


def to_parquet(name: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows of one case."""
    return _written(name, [pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS[name])])


def joined(name: str, parts: Iterable[Path]) -> bytes:
    """Many cases' files as one, in the order given; a bounded number of them in memory at once."""

    def groups() -> Iterable[pa.Table]:
        waiting: list[pa.Table] = []
        for part in parts:
            waiting.append(read(name, part))
            if len(waiting) == _AT_ONCE:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    return _written(name, groups())


def read(name: str, path: Path) -> pa.Table:
    """One file, checked against the columns that it must have."""
    try:
        table = parquet.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"rows of a case at {path}", str(error), "Delete the case's folder and run the study again.") from None
    if not table.schema.equals(SCHEMAS[name]):
        raise BadInput(f"the columns {', '.join(SCHEMAS[name].names)} in {path}", ", ".join(table.schema.names), "Use one version.")
    return table


def _written(name: str, groups: Iterable[pa.Table]) -> bytes:
    buffer = pa.BufferOutputStream()
    with parquet.ParquetWriter(buffer, SCHEMAS[name], compression="zstd") as writer:
        for group in groups:
            writer.write_table(group.combine_chunks())
    return buffer.getvalue().to_pybytes()
