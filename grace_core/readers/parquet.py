"""Rows of a Parquet file, or of a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from grace_core.errors import GraceError
from grace_core.passages import Chunk
from grace_core.readers.chunked import chunk_of
from grace_core.readers.documents import Notes, Row, guess_columns
from grace_core.readers.files import HEAD_BYTES, open_bytes, refuse_binary

LONGEST_LIST = 64  # a longer list of numbers is taken for a vector


def chunk_in(path: Path) -> Chunk | None:
    """The split settings of a Parquet file of passages; None for others, and for one that cannot be read, whose
    rows raise the error.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return chunk_of(pq.read_schema(path))
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return None


def parquet_rows(path: Path, columns: dict[str, str] | None, notes: Notes, *, first: int = 1) -> Iterator[Row]:
    """The rows of a Parquet file, numbered from ``first``. Raises GraceError for one that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = first - 1
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if twice := [name for name in schema.names if schema.names.count(name) > 1]:
                raise GraceError(f"{path}: column {twice[0]!r} occurs twice: rename one")
            mapped = {*guess_columns(schema.names).values(), *(columns or {}).values()}
            dropped = []
            for field in schema:
                if field.name not in mapped and (why := _useless(file, field)):  # a mapped one is refused with its row
                    dropped.append(field.name)
                    notes.add(f"{path}: column {field.name!r} ({field.type}) is left out: {why}")
            kept_columns = [name for name in schema.names if name not in dropped]
            # a name with a dot is taken for a path into a struct, so such columns are read with all the others
            kept_columns = None if not dropped or any("." in name for name in kept_columns) else kept_columns
            for batch in file.iter_batches(batch_size=1024, columns=kept_columns or None):
                batch = (
                    batch.select([name for name in batch.schema.names if name not in dropped])
                    if kept_columns is None and dropped
                    else batch
                )
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except GraceError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        _refuse_non_parquet(path)
        raise GraceError(
            f"{path}: unreadable Parquet after row {number} ({repr(error)[:300]}): write the file again"
        ) from None


def _refuse_non_parquet(path: Path) -> None:
    """Raises GraceError for a file that is no Parquet file whatever its name, with what it is."""
    with path.open("rb") as file:
        start = file.read(4)
    if start in (b"PAR1", b"PARE"):
        return
    if not start:
        raise GraceError(f"{path}: unreadable Parquet: the file is empty: write or fetch it again")
    if start[:2] == b"\x1f\x8b":
        raise GraceError(f"{path}: unreadable Parquet: it is packed with gzip: unpack it first")
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    refuse_binary(path, head, "Parquet")
    raise GraceError(
        f"{path}: unreadable Parquet: it begins with {head[:40]!r}: give it the ending of what it is, such as .csv"
    )


def _useless(file, field) -> str | None:
    """Why a column cannot serve as metadata: bytes, or lists of floats that are longer than LONGEST_LIST in its
    first rows; None if it can.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes cannot be kept as text"
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    if not pa.types.is_floating(kind.value_type):
        return None
    if pa.types.is_fixed_size_list(kind):
        longest = kind.list_size
    else:
        batch = next(file.iter_batches(batch_size=64, columns=None if "." in field.name else [field.name]), None)
        longest = pc.max(pc.list_value_length(batch.column(field.name))).as_py() if batch else 0
    return f"vectors of {longest} numbers are no metadata" if (longest or 0) > LONGEST_LIST else None


def parquet_parts(folder: Path) -> list[Path]:
    """The Parquet files of a folder and its subfolders, by path, without names that begin with a dot or an
    underscore.
    """
    paths = sorted(folder.rglob("*.parquet"), key=lambda path: path.relative_to(folder).as_posix())
    return [path for path in paths if path.is_file() and not any(p[0] in "._" for p in path.relative_to(folder).parts)]


def parts_rows(folder: Path, parts: list[Path], columns: dict[str, str] | None, notes: Notes) -> Iterator[Row]:
    """The rows of all parts, numbered continuously; folders called NAME=VALUE give the column NAME."""
    names = [part.relative_to(folder).as_posix() for part in parts]
    notes.add(
        f"{folder}: {len(parts)} Parquet {'file is' if len(parts) == 1 else 'files are'} read: {', '.join(names)[:300]}"
    )
    number = 0
    for part in parts:
        pairs = [piece.split("=", 1) for piece in part.relative_to(folder).parts[:-1] if "=" in piece]
        keys = {name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, value in pairs}
        for number, row in parquet_rows(part, columns, notes, first=number + 1):  # noqa: B020 - goes on from the last part's
            yield number, keys | row
