"""Files that are either whole or absent, and that are read whole or not at all.

Writing: `atomic_path`, `write_json` (sealed with a hash of its content), `write_together`; `locked` keeps two writers
out of one folder. Reading: `read_json`, `read_record` (by a schema, a `Record`), `read_together`. Whatever is wrong
with a file ends in one `BadFile`: file, field, what was expected, what was found, what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from caft_lens._support.errors import BadArgument, BadData, BadFile, Busy, CaftLensError, MissingFile, nearest

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from torch import Tensor

SEAL = "seal"
"""The last key of a sealed JSON file: a hash of all others."""
DEPTH = 100
"""Levels of nesting beyond which a JSON file is refused."""
STALE = 3600.0
"""Seconds after which a temporary file that nobody renamed belongs to a writer that is dead."""

LONGEST_NAME = 200
"""Bytes that the name of a file may have, beside what is added to it; systems have 255."""

R = TypeVar("R", bound="Record")
T = TypeVar("T")
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things, as every reader of JSON can hold it."""
Named = Annotated[str, Field(min_length=1)]
Json = dict[str, JsonValue]
"""A part of a file that is free of form."""
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)  # strings are taken whole: brackets in them do not nest
_SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|[eE]\+?\d{3}|\d{300}")
"""What may be half of a surrogate pair, or a number beyond what a float holds: looked at more closely."""


class Record(BaseModel):
    """The schema of a file, or of a part of one: kinds are not converted into each other, unknown keys are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


# -- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which is made when missing; it is renamed to `path` when the block
    succeeds and its bytes are on the disk. What a dead writer of the same file left behind is removed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "note.txt").read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*{path.suffix}"):
        with suppress(OSError):
            if left.is_file() and time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes private files; an artefact gets the permissions that a plain open() would give.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def absolute(path: str | Path) -> Path:
    """A path that means the same file wherever the process goes (`os.chdir`)."""
    return Path(os.path.abspath(path))


def shown(path: str | Path) -> str:
    """How a path is told to a person: from the current folder, where it lies in or beside that.

    Example:
        >>> shown(os.path.abspath("runs")), shown("../runs").replace(os.sep, "/")
        ('runs', '../runs')
    """
    near = os.path.relpath(path)
    return str(path) if near.split(os.sep)[:2] == ["..", ".."] else near


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the entries of a folder, are on the disk, where the system can say so."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, value: Any, *, seal: bool = True) -> None:
    """Write `value` as indented JSON, atomically and, where it is a mapping, sealed.

    Args:
        path: Where to.
        value: Of what JSON has: no NaN, no tensor, no half of a surrogate pair, no two keys that are one when written.
        seal: `False` for a file in another library's format, which knows no such key.

    Raises:
        BadData: When it holds anything else, or is nested too deeply to be read again.
    """
    text = json_text(value, str(path), seal=seal, indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def json_text(value: Any, where: str, *, seal: bool = True, **how: Any) -> str:
    """What `write_json` writes to `where`; `how` are arguments of `json.dumps`."""
    try:
        text = json.dumps(sealed(value) if seal else value, ensure_ascii=False, allow_nan=False, **how)
        text.encode("utf-8")
        _check_depth(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadData(f"What was to be written to {where} is no JSON: {error}.") from None
    return text


def write_record(path: str | Path, record: Record) -> None:
    """Write a record as `read_record` reads it."""
    write_json(path, record.model_dump(mode="json", exclude_none=True))


def sealed(value: Any) -> Any:
    """A mapping with the hash of its content as last key; anything else as it is.

    Example:
        >>> list(sealed({"a": 1}))
        ['a', 'seal']
    """
    if not isinstance(value, Mapping):
        return value
    if SEAL in value:
        raise BadData(f'the key "{SEAL}" is taken')
    return {**value, SEAL: _seal(value)}


def _seal(rest: Mapping[str, Any]) -> str:
    # Keys as strings, of which none may be there twice, and tuples as lists.
    plain = json.loads(json.dumps(rest, allow_nan=False), object_pairs_hook=_once_each)
    return sha256(json.dumps(plain, sort_keys=True))


def write_together(data: str | Path, content: bytes, card: str | Path, record: Mapping[str, Any]) -> None:
    """Write a file and the JSON beside it that tells of it, as one: `read_together` finds both old or both new, at
    whatever moment a kill comes. The record holds `sha256(content)` somewhere.

    The content is first written aside, under its hash; it counts from the moment at which the card, which names the
    hash, is there; then it takes its place. Where that fails, what was there stays.
    """
    data, card = Path(data), Path(card)
    json_text(record, str(card))
    card.parent.mkdir(parents=True, exist_ok=True)
    digest = sha256(content)
    aside = _aside(data, digest)
    with _in_turn(card.parent):
        try:
            aside.write_bytes(content)
            sync(aside)
            write_json(card, record)
        except Exception:
            if not card.is_file() or digest.encode() not in card.read_bytes():
                aside.unlink(missing_ok=True)
            raise
        os.replace(aside, data)
        sync(data.parent)
        for left in data.parent.glob(_aside(data, "*").name):
            left.unlink(missing_ok=True)


def read_together(data: str | Path, card: str | Path, parse: Callable[[Any], tuple[T, str]]) -> tuple[T, bytes]:
    """Read what `write_together` wrote, also beside a writer, and after one that was killed.

    Args:
        data: The file.
        card: The JSON file.
        parse: Takes what the JSON holds; gives what was made of it, and the hash of the content that it names.

    Returns:
        What `parse` made of the card, and the content.
    """
    data, card = Path(data), Path(card)
    tried: list[str] = []
    while len(tried) < 3 or len(set(tried[-3:])) > 1:  # of a card that changes, a writer is at work
        made, digest = parse(read_json(card))
        # While the card is that, the content is aside or in its place; it may be moved between two looks.
        for path in (data, _aside(data, digest), data):
            with suppress(FileNotFoundError):
                content = path.read_bytes()
                if sha256(content) == digest:
                    if path != data:  # left there by a killed writer; a folder may be for reading only
                        with suppress(OSError), _in_turn(data.parent):
                            os.replace(path, data)
                            sync(data.parent)
                    return made, content
        tried.append(digest)
    if not data.is_file():
        raise missing(data)
    raise BadFile(
        f"{data} does not hold what {card.name} beside it tells of: it was changed after it was written, or a copy "
        f"was interrupted. Make both again, or copy both again."
    )


def _aside(data: Path, digest: str) -> Path:
    return data.with_name(f".{data.name}.{digest}.new")


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """A block for a moment, that one process, and one thread in it, is in at a time for a folder; it leaves no file."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be replaced anyhow
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        MissingFile: When there is none, with the names beside it that are near.
        BadFile: When it is not UTF-8 text.
    """
    path = Path(path)
    try:
        return _decoded(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        raise missing(path) from None
    except IsADirectoryError:
        raise BadFile(f"{path} is a folder; expected a file.") from None


def _decoded(content: bytes, where: str | Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(
            f"{where} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): make it again."
        ) from None


def missing(path: str | Path, what: str = "file") -> MissingFile:
    """The error of a file that is not there, with its neighbours, or where its folder is missing too, the folder's.

    Example:
        >>> home = Path(tempfile.mkdtemp())
        >>> write_json(home / "caps.jsonl", {})
        >>> str(missing(home / "cap.jsonl")).replace(str(home), "chats")
        'There is no file chats/cap.jsonl. Did you mean "caps.jsonl"?'
    """
    path = Path(path)
    first = _first_missing(path)
    why = "" if first == path else f": the folder {first} does not exist"
    return MissingFile(f"There is no {what} {path}{why}.{_beside(first)}")


def absent(folder: str | Path, marker: str, said: str, hint: str = "") -> MissingFile:
    """The error of a folder that is not what it was taken for, with the folders in it or beside it that are.

    Args:
        folder: What was asked for.
        marker: The file that such a folder has.
        said: Such as "holds no finished run".
        hint: What to do, as a sentence.

    Example:
        >>> home = Path(tempfile.mkdtemp())
        >>> write_json(home / "plain" / "run.json", {})
        >>> str(absent(home / "plian", "run.json", "holds no finished run")).replace(str(home), "runs")
        'runs/plian holds no finished run: run.json is missing (there is no such folder). Did you mean "plain"?'
    """
    folder = Path(folder)
    inside, beside = (
        sorted(str(one.parent.relative_to(at)) for one in at.glob(f"*/{marker}")) if at.is_dir() else []
        for at in (folder, folder.parent)
    )
    if inside:
        near = f" Such folders are in it: {', '.join(inside[:12])}{', …' * (len(inside) > 12)}."
    elif beside:
        near = nearest(folder.name, beside)
    else:
        near = "" if folder.is_dir() else _beside(_first_missing(folder))
    why = "" if folder.is_dir() else " (there is no such folder)"
    return MissingFile(f"{folder} {said}: {marker} is missing{why}.{f' {hint}' if hint else ''}{near}")


def _first_missing(path: Path) -> Path:
    """Of the folders that lead to something that is not there, and itself, the first that is not."""
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    return path


def _beside(path: Path) -> str:
    names = sorted(one.name for one in path.parent.iterdir() if not one.name.startswith("."))
    return nearest(path.name, names) if names else ""


def parse_json(text: str | bytes, where: str) -> Any:
    """JSON as the standard has it: no key twice, no NaN or infinity, no absurd nesting, no half of a surrogate pair.

    Raises:
        BadFile: When it is anything else, saying `where`: a path, with the line where there are several.
    """
    text = _decoded(text, where) if isinstance(text, bytes) else text
    try:
        value = json.loads(text, **STRICT)
        _check_depth(text)  # of what is JSON: in other texts a search for the ends of strings could take for ever
        text.encode("utf-8")
        if _SUSPECT.search(text):
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadFile(f"{where} is not valid JSON ({reason}); it may be truncated or changed: make it again.") from None
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadData(f"the key {json.dumps(key[:80])} stands twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise BadData(f"{name} is no number in JSON")


STRICT: dict[str, Any] = {"object_pairs_hook": _once_each, "parse_constant": _no_constant}
"""With these `json.loads` refuses a key that stands twice, and NaN."""


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for found in _MARKS.finditer(text):
        mark = found.group()
        if mark in "[{":
            depth += 1
            if depth > DEPTH:
                raise BadData(f"nested more than {DEPTH} deep")
        elif mark in "]}":
            depth -= 1


def read_json(path: str | Path) -> Any:
    """Read a JSON file; the seal of a sealed one is checked and taken off.

    Raises:
        MissingFile: When there is no such file.
        BadFile: When it is not JSON (truncated, say), or is not what was written.
    """
    return unsealed(parse_json(read_text(path), str(path)), path)


def unsealed(value: Any, path: str | Path) -> Any:
    """What was read without its seal, which is checked; what has none as it is.

    Raises:
        BadFile: When the seal is not that of the rest.
    """
    if not isinstance(value, dict) or SEAL not in value:
        return value
    seal = value.pop(SEAL)
    if seal != _seal(value):
        raise BadFile(
            f'{path} was changed after it was written: its content no longer fits its "{SEAL}". Make it again; if you '
            f'edited it on purpose, take the line "{SEAL}" out.'
        )
    return value


def read_record(path: str | Path, schema: type[R], what: str = "") -> R:
    """Read a JSON file by its schema: `read_json`, then `parsed`."""
    return parsed(read_json(path), schema, str(path), what)


def parsed(value: Any, schema: type[R], where: str, what: str = "") -> R:
    """A value that was read, by its schema.

    Args:
        value: What `read_json` or YAML gave.
        schema: What it must hold.
        where: The file it came from, for errors.
        what: What such a file is called in errors, such as "a store's index"; the schema's name by default.

    Raises:
        BadFile: Naming file, field, what was expected and what was found.

    Example:
        >>> class Point(Record):
        ...     x: float
        >>> parsed({"x": 1.5}, Point, "point.json")
        Point(x=1.5)
    """
    try:
        # As JSON: lists may become tuples, and keys of objects numbers, but no text becomes a number.
        return schema.model_validate_json(json.dumps(value, allow_nan=False))
    except (ValidationError, ValueError, TypeError) as error:
        raise BadFile(explained(error, where, what or schema.__name__)) from None


def explained(error: Exception, where: str, what: str) -> str:
    """One sentence for what a schema refused."""
    if not isinstance(error, ValidationError):
        return f"{where} is no {what}: {error}."
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    expected = first["msg"].removeprefix("Value error, ")
    found = repr(first["input"])
    found = found if len(found) <= 80 else found[:79] + "…"
    return (
        f"{where} is not {what} as it is written: at {field}, {expected[:1].lower()}{expected[1:]}, found "
        f"{found}{more}. Make it again, or put it right there."
    )


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A block whose errors about content name the file that it came from.

    Example:
        >>> with naming("a.json"):
        ...     raise BadArgument("No such thing.")
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadFile: a.json: No such thing.
    """
    try:
        yield
    except (BadFile, MissingFile):
        raise
    except (CaftLensError, ValueError) as error:
        raise BadFile(f"{path}: {error}") from error


def file_name(name: str, what: str = "arm") -> str:
    """The name that somebody gave `what`, as that of one file or folder: it leads nowhere else, and no two are one.

    Raises:
        BadArgument: For a path out of its folder (`"../x"`, `"/x"`), control characters, or a name that is too long.

    Example:
        >>> file_name("caft (PCA)"), file_name("a/b")
        ('caft (PCA)', 'a%2Fb')
    """
    why = ""
    if not isinstance(name, str):
        why = f"it is a {type(name).__name__}, not a text"
    elif name[:1] in ("/", "\\") or {".", ".."} & {*re.split(r"[/\\]", name)}:
        why = "it is a path that leads out of its folder"
    elif any(ord(one) < 32 or ord(one) == 127 or 0xD800 <= ord(one) < 0xE000 for one in name):
        why = "it has characters that no name of a file has"
    made = "" if why else quote(name, safe=" ()+,=") or "%"
    if len(made) > LONGEST_NAME:
        why = f"it is longer than {LONGEST_NAME} characters, as a file would be called"
    if why:
        raise BadArgument(f"{name!r:.120} is no name for the {what}: {why}. Choose another one.")
    return made


def inside(folder: str | Path, name: str) -> Path:
    """A file within a folder, by a name that was read from somewhere.

    Raises:
        BadFile: When the name leads out of the folder, by dots, as an absolute path or through a link.

    Example:
        >>> inside("runs", "a.json").as_posix()
        'runs/a.json'
    """
    folder = Path(folder)
    parts = Path(name).parts
    bad = not name or "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in parts or not parts
    if not bad:
        path = folder / name
        bad = not path.resolve().is_relative_to(folder.resolve())
    if bad:
        raise BadFile(f"{folder} names the file {name!r}, which lies outside of it: the folder was changed.")
    return path


# -- hashes -----------------------------------------------------------------------------------------------------------


def sha256(*chunks: bytes | str) -> str:
    """The first 16 hex digits of the SHA-256 over length-prefixed chunks (so that no two splits collide).

    Example:
        >>> sha256("ab", "c") == sha256("a", "bc")
        False
    """
    digest = hashlib.sha256()
    for chunk in chunks:
        data = chunk.encode() if isinstance(chunk, str) else chunk
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise missing(path) from None


def hashes(folder: str | Path) -> dict[str, str]:
    """The hashes of the files in a folder, by their paths within it."""
    found = sorted(one for one in Path(folder).rglob("*") if one.is_file())
    return {one.relative_to(folder).as_posix(): file_hash(one) for one in found}


def check_hash(path: str | Path, expected: str | None) -> None:
    """Refuse a file whose bytes are not what was written; `None` for one that nothing is known of."""
    if expected is not None and file_hash(path) != expected:
        raise BadFile(f"{path} was changed or damaged after it was written (its SHA-256 differs): make it again.")


# -- tensors ----------------------------------------------------------------------------------------------------------


def parse_tensors(data: bytes, where: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load

    with reading_tensors(where):
        return load(data)


@contextmanager
def reading_tensors(path: str | Path) -> Iterator[None]:
    """A block that reads a safetensors file: a `BadFile` says when it is none."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise BadFile(
            f"{path} is not a safetensors file ({error}); it may be truncated or changed: make it again."
        ) from None


def tensor_kinds(path: str | Path) -> dict[str, tuple[str, list[int]]]:
    """Number format (as safetensors calls it) and shape of each tensor of a file, without reading them."""
    from safetensors import safe_open

    with reading_tensors(path), safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, kinds, shapes and bits, in whatever order they come."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # Through an untyped view: numpy knows no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...], where: str | Path) -> Tensor:
    """A tensor of a file: there, of floating point, of a shape (`None` for any size), and finite; else a `BadFile`."""
    if name not in tensors:
        raise BadFile(f'{where} holds no tensor "{name}".{nearest(name, tensors)}')
    tensor = tensors[name]
    fits = tensor.ndim == len(shape) and all(n is None or n == m for n, m in zip(shape, tensor.shape, strict=True))
    if not tensor.dtype.is_floating_point or not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        kind = str(tensor.dtype).removeprefix("torch.")
        raise BadFile(
            f'{where}: "{name}" is {kind} of shape {list(tensor.shape)}; expected floating point of shape [{expected}].'
        )
    if not bool(tensor.isfinite().all()):
        raise BadFile(f'{where}: "{name}" holds NaN or infinite values: make it again.')
    return tensor


# -- one writer at a time ---------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: str | Path, *, wait: float = 0.0, doing: str = "is being written") -> Iterator[None]:
    """A block that one process, and one thread in it, can be in at a time for a folder; a process that dies leaves it.

    Args:
        folder: What is locked; while it is, the lock lies beside it, as `.<name>.lock`.
        wait: Seconds to wait for another writer; -1 waits as long as it takes.
        doing: What the other one does, for the error.

    Raises:
        Busy: When another writer is in.
    """
    folder = absolute(folder)
    lock = take(folder.parent / f".{folder.name}.lock", wait)
    if lock is None:
        raise Busy(f"{folder} {doing} by another process or thread: wait for it, or choose another folder.")
    try:
        yield
    finally:
        let_go(lock)


def take(path: Path, wait: float) -> BaseFileLock | None:
    """The lock that a file is, held; `None` when another holds it for more than `wait` seconds (-1: without end).

    Who lets go takes the file away (`let_go`), so that what was waited for may be a file that has no name any more:
    whoever gets it goes on to the one that has.
    """
    from filelock import FileLock, Timeout

    last = time.monotonic() + max(wait, 0)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=wait if wait < 0 else max(0.0, last - time.monotonic()))
        except Timeout:
            return None
        except FileNotFoundError:  # somebody took the empty folder away
            continue
        if _has_the_name(lock) is not False:
            return lock
        lock.release()


def let_go(lock: BaseFileLock) -> None:
    """Release a lock that is held, and take its file away first, while nobody else can be in.

    Windows takes no file away that another process has open; there filelock does it when it can.
    """
    try:
        if os.name != "nt" and _has_the_name(lock):
            with suppress(OSError):
                os.unlink(lock.lock_file)
    finally:
        lock.release()


def _has_the_name(lock: BaseFileLock) -> bool | None:
    """Whether a held lock is on the file that has its name; `None` where filelock does not tell, and the file stays."""
    handle = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if handle is None:
        return None
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock.lock_file))
    except OSError:
        return False
