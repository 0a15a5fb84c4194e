"""Records of an Arrow file, as `datasets` saves it (the stream format) or with an index (the file format)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.data.inputs import show
from workbench.data.unpack import one_line

_MAGIC = b"ARROW1"
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What a stream ends with. Without it, a file that was cut between two batches looks like a whole one."""
_ROWS_A_BATCH = 1000


def read_arrow(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the rows of a file, by the number of the first (from 1) and the records of a thousand at most.

    Parameters
    ----------
    path
        The file, in one of the two formats, compressed by Arrow or not.
    columns
        Columns to read, of which those that are not there are left out; None reads all, and so does a file without the
        first of them. A name with dots is also the column before the first dot, which may hold records.

    Raises
    ------
    ValueError
        The file is no Arrow file, empty, cut short, or damaged.
    """
    import pyarrow

    rows = 0
    try:
        with _open(path) as batches:
            for batch in batches:
                for begin in range(0, batch.num_rows, _ROWS_A_BATCH):
                    part = batch.slice(begin, _ROWS_A_BATCH)
                    yield rows + 1, _select(part, columns).to_pylist()
                    rows += part.num_rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{show(path)}, behind row {rows}, is not UTF-8: {one_line(error)}") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{show(path)} cannot be read after row {rows}: {one_line(error)}") from error
    if not rows:
        raise ValueError(f"{show(path)} is empty: it has no row")


@contextmanager
def _open(path: Path) -> Iterator[Iterable[Any]]:
    """Open a file as record batches."""
    import pyarrow
    import pyarrow.ipc

    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
        if not head:
            raise ValueError(f"{show(path)} is empty")
        file.seek(0)
        options = pyarrow.ipc.IpcReadOptions(use_threads=False)
        try:
            if head == _MAGIC:
                indexed = pyarrow.ipc.open_file(file, options=options)
                batches = (indexed.get_batch(i) for i in range(indexed.num_record_batches))
            else:
                batches = pyarrow.ipc.open_stream(file, options=options)
                _check_end(path, file)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{show(path)} is no Arrow file, or is truncated: {one_line(error)}") from error
        yield batches


def _check_end(path: Path, file: Any) -> None:
    place = file.tell()
    file.seek(-len(_END), 2)
    if file.read() != _END:
        raise ValueError(f"{show(path)} is truncated: it begins as an Arrow stream and has no end")
    file.seek(place)


def _select(batch: Any, columns: list[str] | None) -> Any:
    if columns is None or not {columns[0], columns[0].partition(".")[0]} & set(batch.schema.names):
        return batch
    wanted = {name for column in columns for name in (column, column.partition(".")[0])}
    return batch.select([name for name in batch.schema.names if name in wanted])
