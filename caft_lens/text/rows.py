"""Rows of data sets, from whatever holds them: files, data frames, Arrow tables, `datasets`, lists and generators.

`rows_of` takes an object in memory and `read_rows` a file; both give `(where, row)` pairs one at a time, `where` being
what an error calls the row. `json_value` is what may be known of a document: values that a JSON file gives back equal.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import numpy as np

from caft_lens._support.errors import BadData, BadFile, BadType, MissingFile
from caft_lens._support.files import DEPTH, STRICT, missing

Row = tuple[str, Any]

TEXT_COLUMNS = (
    "messages", "conversations", "conversation", "text", "prompt", "answer", "completion", "response",
    "instruction", "input", "output", "system", "tools",
)  # fmt: skip
"""Columns of a CSV file that are text even where they look like numbers or dates."""

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
_COLUMNAR = ("pandas", "polars", "pyarrow", "datasets")
_BOM = b"\xef\xbb\xbf"
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_PACKED = {
    b"PK\x03\x04": "a zip archive (an Excel workbook is one too)",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
_MOST_DIGITS = 14_000  # bits; Python itself reads no integer of more than 4,300 digits


# -- in memory --------------------------------------------------------------------------------------------------------


def rows_of(source: Any) -> Iterator[Row]:
    """The rows of an object in memory, each with what an error calls it.

    Args:
        source: A list or other iterable of rows, a data frame (pandas, polars), an Arrow table, `datasets`.

    Raises:
        BadType: At once, for anything that is no sequence of rows, naming its type.

    Example:
        >>> list(rows_of(["a", "b"]))
        [('row 0', 'a'), ('row 1', 'b')]
    """
    rows = _rows(source)
    common = isinstance(source, (list, tuple, Iterator)) or type(source).__module__.partition(".")[0] in _COLUMNAR
    of = "" if common else f" of {described(source)}"
    return ((f"row {number}{of}", row) for number, row in enumerate(rows))


def _rows(source: Any) -> Iterable[Any]:
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}" for kind in type(source).__mro__}
    if isinstance(source, Mapping):
        raise BadType(_of_a_mapping(source))
    if kinds & {"datasets.Dataset", "datasets.IterableDataset"}:
        # Of whatever format it was set to give (tensors, frames), here as plain Python.
        return map(without_nulls, source.with_format(None))
    if "pandas.DataFrame" in kinds:
        return _of_pandas(source)
    if kinds & {"pandas.Series", "polars.Series"}:
        return iter(source)
    if "polars.LazyFrame" in kinds:
        source = source.collect()
    if hasattr(source, "__arrow_c_stream__"):
        import pyarrow

        return _of_batches(pyarrow.RecordBatchReader.from_stream(source))
    if "pyarrow.Dataset" in kinds:
        return _of_batches(source.to_batches())
    if "torch.Dataset" in kinds and hasattr(type(source), "__len__") and not hasattr(type(source), "__iter__"):
        return (source[number] for number in range(len(source)))
    refused = (str, bytes, bytearray, memoryview, set, frozenset, io.IOBase, np.ndarray, range)
    if (
        isinstance(source, refused)
        or kinds & {"torch.Tensor", "torch.Module", "numpy.generic"}
        or hasattr(source, "columns")
        or not (isinstance(source, Iterable) or hasattr(source, "__getitem__"))
    ):
        raise BadType(
            f"Expected texts, not {described(source)}: give a list of rows, a file, a data frame, an Arrow table or "
            f"a data set."
        )
    try:
        return iter(source)
    except TypeError:
        raise BadType(f"Expected texts, not {described(source)}: it cannot be iterated over.") from None


def described(value: Any) -> str:
    """The type of a value, as an error names it.

    Example:
        >>> described(3), described(np.zeros((2, 3)))
        ('int', 'numpy.ndarray of shape (2, 3)')
    """
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    name = kind.__qualname__ if package == "builtins" else f"{package}.{kind.__qualname__}"
    shape = getattr(value, "shape", None)
    return f"{name} of shape {tuple(shape)}" if isinstance(shape, tuple) else name


def _of_a_mapping(source: Mapping[Any, Any]) -> str:
    columns = [source[key] for key in ("text", "prompt", "instruction") if key in source]
    if columns and all(
        isinstance(one, (list, tuple)) and one and all(isinstance(cell, str) for cell in one) for one in columns
    ):
        return "These are columns, not rows: give a data frame, pandas.DataFrame(columns), or a list of rows."
    if {"messages", "text", "prompt", "conversations", "instruction"} & set(source):
        return "One row is no data set: give a list of rows, data([row])."
    keys = ", ".join(f'"{str(key)[:40]}"' for key in islice(source, 12)) or "nothing"
    if type(source).__module__.partition(".")[0] == "datasets":
        return f"Expected one data set, got {described(source)} with the splits {keys}: pick one of them."
    return f"Expected one data set, got {described(source)} with {keys}: pick one of its values, if one is a data set."


def _of_batches(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        yield from map(without_nulls, batch.to_pylist())


def _of_pandas(frame: Any) -> Iterator[dict[str, Any]]:
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise BadData(f'The data frame has the column "{twice}" twice: rename one.')
    # pandas writes what is missing as NaN, NaT or NA.
    plain = frame.astype(object).where(frame.notna(), None)
    for values in plain.itertuples(index=False, name=None):
        yield without_nulls(dict(zip(plain.columns, values, strict=True)))


def without_nulls(row: Any) -> Any:
    """A row of a columnar source without the nulls in its structures, and with lists in place of arrays.

    Arrow gives every structure in a column the same fields, those that it lacks as null. Whole columns stay.
    """
    if not isinstance(row, Mapping):
        return row
    return {key: _cleaned(value) for key, value in row.items()}


def _cleaned(value: Any, depth: int = 0) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if depth > DEPTH:
        return value  # refused where it is read
    if isinstance(value, Mapping):
        return {key: _cleaned(one, depth + 1) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_cleaned(one, depth + 1) for one in value]
    return value


# -- files ------------------------------------------------------------------------------------------------------------


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file: JSONL, JSON, CSV, TSV, parquet or Arrow, any of them gzipped.

    The suffix says which; without a known one, the first bytes do, and what they do not tell is read as JSONL.

    Raises:
        BadData: For a row that is broken, with the file and the line or row.
        MissingFile: When there is no such file, naming those that are near.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir() if not one.name.startswith("."))[:12]
        hint = "load it with datasets.load_from_disk" if "dataset_info.json" in inside else "give one file in it"
        raise MissingFile(f"{path} is a folder, not a data set: {hint} ({', '.join(inside) or 'it is empty'}).")
    if not path.is_file():
        raise missing(path, "data set")
    name = path.name.lower()
    with path.open("rb") as file:
        head = file.read(8)
    packed = head.startswith(b"\x1f\x8b")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise BadFile(f"{path} is {what}, which is not read: unpack or convert it (to JSONL, CSV or parquet).")
    kind = SUFFIXES.get(Path(name.removesuffix(".gz")).suffix)
    kind = next((found for magic, found in _MAGIC.items() if head.startswith(magic)), kind)
    if kind in ("parquet", "arrow"):
        return _columnar(path, kind, packed)
    if kind in ("csv", "tsv"):
        return _csv(path, packed, "\t" if kind == "tsv" else ",")
    ending = Path(name).suffix
    if kind is None and ending and not packed:
        start = head.removeprefix(_BOM).lstrip()
        if start and start[:1] not in b'{["':
            raise BadFile(
                f"{path}: the ending {ending} is not known, and the file does not look like JSONL. Read are "
                f"{', '.join(SUFFIXES)}, any of them gzipped; texts of one's own are given in a list, data([text])."
            )
    return _json(path, packed) if kind == "json" else _jsonl(path, packed)


def _bytes(path: Path, packed: bool) -> bytes:
    return b"".join(line for _, line in _lines(path, packed)) if packed else path.read_bytes()


def _lines(path: Path, packed: bool) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (EOFError, OSError, zlib.error) as error:
        raise BadData(f"{path}, after line {number}: the file is not whole ({error}).") from None


def _jsonl(path: Path, packed: bool) -> Iterator[Row]:
    for number, line in _lines(path, packed):
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        text = _decoded(line, where)
        hint = "one JSON object a line is expected"
        if not text.endswith("\n"):
            hint = "the last line ends without a newline: the file seems truncated"
        if number == 1 and text.lstrip().startswith("["):
            hint = "this looks like a JSON list: write one object a line, or name the file .json"
        yield where, parsed(text, where, hint)


def _json(path: Path, packed: bool) -> Iterator[Row]:
    text = _decoded(_bytes(path, packed).removeprefix(_BOM), str(path))
    try:
        value = parsed(text, str(path), "a list of rows is expected")
    except BadData as error:
        if isinstance(error.__cause__, json.JSONDecodeError) and error.__cause__.msg == "Extra data":
            yield from _jsonl(path, packed)  # one object a line after all
            return
        raise
    if isinstance(value, dict):
        value = _only_list(value, path)
    if not isinstance(value, list):
        raise BadData(f"{path} holds {described(value)}, not a list of rows.")
    for number, row in enumerate(value):
        yield f"{path}, row {number}", row


def _only_list(value: dict[str, Any], path: Path) -> list[Any]:
    """The rows in an object around them, where there is no doubt which they are."""
    if set(TEXT_COLUMNS) & set(value):
        return [value]
    lists = [
        key
        for key, one in value.items()
        if isinstance(one, list) and one and all(isinstance(row, (dict, str)) for row in one)
    ]
    if len(lists) == 1:
        return value[lists[0]]
    keys = ", ".join(f'"{key}"' for key in islice(value, 12)) or "nothing"
    raise BadData(
        f"{path} holds one JSON object with {keys}, of which {len(lists) or 'none'} could be the rows: write a list "
        f"of rows."
    )


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: not UTF-8 text ({error}).") from None


def parsed(text: str, where: str, hint: str = "") -> Any:
    """JSON as the standard has it, without a key that stands twice, NaN, or absurd nesting; else a `BadData`."""
    try:
        return json.loads(text, **STRICT)
    except RecursionError:
        raise BadData(f"{where}: not valid JSON (nested more than {DEPTH} deep).") from None
    except json.JSONDecodeError as error:
        raise BadData(f"{where}: not valid JSON ({error}); {hint}.") from error
    except ValueError as error:
        raise BadData(f"{where}: not valid JSON ({error}).") from None


def _columnar(path: Path, kind: str, packed: bool) -> Iterator[Row]:
    import pyarrow
    from pyarrow import ipc, parquet

    number = 0
    try:
        source: Any = pyarrow.BufferReader(_bytes(path, packed)) if packed else pyarrow.memory_map(str(path))
        if kind == "parquet":
            batches: Iterable[Any] = parquet.ParquetFile(source).iter_batches(batch_size=1024)
        elif source.read(6) == b"ARROW1":
            file = ipc.open_file(source)
            batches = (file.get_batch(part) for part in range(file.num_record_batches))
        else:
            source.seek(0)
            batches = ipc.open_stream(source)
        for row in _of_batches(batches):
            yield f"{path}, row {number}", row
            number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{path} is no whole {kind} file, from row {number} on: {_first_line(error)}.") from None


def _csv(path: Path, packed: bool, separator: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import csv

    content = _bytes(path, packed)
    _decoded(content, str(path))
    if not content.strip():
        return
    header = content.removeprefix(_BOM).split(b"\n", 1)[0].decode()
    for other in ";\t|,":
        names = {name.strip(' "\r') for name in header.split(other)}
        if separator not in header and len(names) > 1 and names & set(TEXT_COLUMNS):
            raise BadData(
                f"{path} has {json.dumps(other)} between its columns, not {json.dumps(separator)}: "
                f"give data() a data frame, pandas.read_csv(path, sep={json.dumps(other)})."
            )
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(content),
            # A row may not be longer than a block.
            read_options=csv.ReadOptions(block_size=min(max(len(content) + 1, 1 << 20), 2**31 - 1), use_threads=False),
            parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(TEXT_COLUMNS, pyarrow.string()),
                # An empty cell is null, an empty string is "" in quotes, and NA is a word.
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pyarrow.ArrowException as error:
        raise BadData(
            f"{path} is no table with one row a line and the columns' names in the first: {_first_line(error)}."
        ) from None
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise BadData(f'{path} has the column "{twice[0]}" twice: rename one.')
    for number, row in enumerate(_of_batches(table.to_batches(max_chunksize=1024))):
        yield f"{path}, row {number}", row


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")


# -- what may be known about a document --------------------------------------------------------------------------------


def check_text(value: str, where: str) -> str:
    """A string that is Unicode text.

    Raises:
        BadData: When half of a surrogate pair stands in it, which no file and no tokenizer takes.
    """
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadData(
                f"{where} holds half of a surrogate pair ({value[error.start]!r} at character {error.start}), which "
                f"is no text: it was cut in the middle of a character, or decoded wrongly."
            ) from None
    return value


def json_value(value: Any, where: str, depth: int = 0) -> Any:
    """A value as JSON gives it back: numpy values become plain ones, tuples lists, dates, decimals and paths text.

    Args:
        value: What is known.
        where: What an error calls it.
        depth: How deep it stands in another one.

    Raises:
        BadData: For what JSON has no form for: NaN, bytes, sets, objects, keys that are no strings, absurd nesting.

    Example:
        >>> json_value({"n": np.int64(3), "when": date(2024, 5, 1)}, "it")
        {'n': 3, 'when': '2024-05-01'}
    """
    if not depth and _is_plain(value):
        return value
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return check_text(value, where)
    if kind is int:
        if value.bit_length() > _MOST_DIGITS:
            raise BadData(f"{where} is an integer of more digits than can be read back.")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise BadData(f"{where} is {value}, which JSON has no form for: leave it out, or give null.")
        return value
    if depth > DEPTH:
        raise BadData(f"{where[:80]} is nested more than {DEPTH} deep.")
    if isinstance(value, Mapping):
        return {
            _key(key, where): json_value(one, f'{where}["{str(key)[:40]}"]', depth + 1) for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [json_value(one, f"{where}[{number}]", depth + 1) for number, one in enumerate(value)]
    return json_value(_plain(value, where), where, depth + 1)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is as JSON gives it back already; in short, since almost all are."""
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is str:
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    if kind is int:
        return -(2**63) <= value < 2**63
    if kind is float:
        return math.isfinite(value)
    if depth > DEPTH:
        return False
    if kind is list:
        return all(_is_plain(one, depth + 1) for one in value)
    if kind is dict:
        return all(type(key) is str and _is_plain(key) and _is_plain(one, depth + 1) for key, one in value.items())
    return False


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise BadData(f"{where} has the key {str(key)[:40]!r} of type {described(key)}: keys are strings.")
    return str(check_text(key, f"a key of {where}"))


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        plain = value.item()
        if type(plain) is not type(value):
            return plain
    if isinstance(value, Enum):
        return value.value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, date | time):
        return value.isoformat() if value == value else None  # NaT
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, UUID | PurePath | timedelta):
        return str(value)
    raise BadData(
        f"{where} is {described(value)}, which JSON has no form for: leave it out, or give numbers, strings, lists "
        f"and objects of them."
    )
