"""A finished stage's rows as a Parquet file, for `analysis`: one column a metric, read without the others.

`metrics.jsonl` stays beside it. It is what a training continues from when a budget grows, what every other reader knows,
and what survives a kill at any byte, none of which a Parquet file gives; the Parquet file is a copy, which may be lost.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from workbench.study.files import fsync
from workbench.study.layout import StageDir
from workbench.tracking import spool

SOURCE_BYTES = b"workbench.metrics_bytes"
"""Key of the file's metadata: size of the `metrics.jsonl` that it was made of; of another size, it is out of date."""


def write_table(stage_dir: StageDir) -> Path | None:
    """Write `metrics.parquet` completely or not at all; None where the stage has no rows.

    `step` and `tokens` are 64-bit integers, all else 64-bit floats, null where a row has no value; what is no number is
    left out.

    Raises
    ------
    OSError
        The disk is full or gone.
    ValueError
        Steps do not increase.
    """
    # It takes a third of a second, which a stage without rows need not wait for.
    rows = spool.read_rows(stage_dir.path)
    if not rows:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = stage_dir.metrics.stat().st_size
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    whole = (spool.STEP, spool.TOKENS)
    schema = pa.schema([(name, pa.int64() if name in whole else pa.float64()) for name in names])
    table = pa.table(columns, schema=schema.with_metadata({SOURCE_BYTES: str(size)}))
    path = stage_dir.metrics_table
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _number(value: Any) -> int | float | None:
    return value if _is_number(value) else None
