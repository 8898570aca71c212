"""Activations on disk: safetensors shards and an index, written resumably, read lazily.

Where a shard ends, and what is in it, follows from the texts alone; so a run that was killed and resumed leaves the
same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, JsonValue, model_validator
from torch import Tensor

from caft_lens._support import files, lazy
from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadFile, UnknownName, nearest
from caft_lens._support.files import Count, Named, Record, absolute, inside, write_json
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress as progress_bar
from caft_lens.activations.capture import Lenses, captured, hook_names, pair
from caft_lens.text.batching import Scan, pack, padding_id
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import Cuts, Encoded, encoded
from caft_lens.text.roles import ROLES, check_role_names, role_names

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

INDEX = "index.json"
_FORMAT = "caft_lens.Store"
_ABOUT_TOKENS = ("index", "position", "token")
_FLOATS, _INTEGERS = ("F64", "F32", "F16", "BF16"), ("I64", "I32")


@dataclass
class Stored:
    """Some tokens of a store.

    Attributes:
        acts: Activations by hook name, `[n_tokens, d_model]`.
        index: Number of the text that each token is of, long `[n_tokens]`.
        position: Position of the token in its text, int `[n_tokens]`.
        token: Token id, int `[n_tokens]`.
    """

    acts: dict[str, Tensor]
    index: Tensor
    position: Tensor
    token: Tensor

    def __len__(self) -> int:
        return len(self.index)


class Store:
    """Activations that `store` wrote, read a batch at a time; `Store.open(folder)` opens them.

    Args:
        folder: Where they are.
        index: What the index there says.

    Attributes:
        hooks: Names of the hook points.
        about: Names of models and data, for people.
        settings: What they were made of and how: fingerprints of models and data, roles, dtype, sizes.

    Example:
        >>> acts = cl.store(base, corpus, [1], "runs/acts", roles=None)
        >>> for batch in Store.open("runs/acts").batches(512, seed=0):
        ...     rows = batch.acts["blocks.1.hook_resid_post"]
        >>> rows.shape[1], rows.dtype  # [n_tokens, d_model]
        (128, torch.float32)
    """

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = index["settings"]
        self.about: dict[str, Any] = index["about"]
        self.hooks: list[str] = self.settings["hooks"]
        self._shards: list[dict[str, Any]] = index["shards"]
        self._checked: set[str] = set()

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Open a finished store.

        Raises:
            MissingFile: When there is none.
            BadFile: When it is unfinished, its index is broken, or a shard is missing or truncated; a `ValueError`.
        """
        typed, folder = folder, absolute(folder)
        index = _read_index(folder)
        if index is None:
            raise files.absent(folder, INDEX, "holds no activation store")
        if not index["complete"]:
            done = index["shards"][-1]["texts"][1] if index["shards"] else 0
            raise BadFile(
                f"The activation store in {typed} is unfinished: {done} of {index['settings']['texts']} texts. "
                "Call store(...) with the same arguments to go on with it."
            )
        _check_shards(folder, index)
        return cls(folder, index)

    def __len__(self) -> int:
        """The number of tokens."""
        return sum(shard["tokens"] for shard in self._shards)

    def batches(
        self, batch_size: int = 4096, *, hooks: Sequence[str] | str | None = None, seed: int | None = None
    ) -> Iterator[Stored]:
        """Go through the tokens, `batch_size` at a time; the last batch may be smaller.

        Args:
            batch_size: How many tokens.
            hooks: Which hook points; all by default.
            seed: Shuffle the shards and the tokens inside each, which holds one shard in memory; `None` keeps the order
                of the input and holds only what it yields.

        Raises:
            UnknownName: For a hook point that is not stored, naming the nearest.
            BadFile: When a shard is not what was written: the hash of each is checked when it is first read.
        """
        names = self._names(hooks)
        count(batch_size, "batch_size")
        rng = None if seed is None else np.random.default_rng(seed)
        order = np.arange(len(self._shards)) if rng is None else rng.permutation(len(self._shards))
        parts: list[Stored] = []
        for shard in (self._shards[number] for number in order.tolist()):
            rows = None if rng is None else torch.from_numpy(rng.permutation(shard["tokens"]))
            pieces = self._pieces(shard, names, rows)
            start = 0
            while start < shard["tokens"]:
                stop = min(shard["tokens"], start + batch_size - sum(map(len, parts)))
                parts.append(pieces(start, stop))
                start = stop
                if sum(map(len, parts)) == batch_size:
                    yield _joined(parts)
                    parts = []
        if parts:
            yield _joined(parts)

    def _pieces(self, shard: dict[str, Any], names: Sequence[str], rows: Tensor | None) -> Callable[[int, int], Stored]:
        """A function that gives tokens `[start, stop)` of a shard, in its order or that of `rows`."""
        path = self._checked_file(shard)
        known = "sha256" in shard
        if rows is None:
            return lambda start, stop: _read(path, names, start, stop, known)
        whole = _read(path, names, 0, shard["tokens"], known)
        return lambda start, stop: _rows(whole, rows[start:stop])

    def _checked_file(self, shard: dict[str, Any]) -> Path:
        """The file of a shard; the first time, it is looked at whole."""
        path = inside(self.folder, shard["file"])
        if shard["file"] not in self._checked:
            files.check_hash(path, shard.get("sha256"))
            _check_tensors(path, self.hooks, shard["tokens"])
            self._checked.add(shard["file"])
        return path

    def __iter__(self) -> Iterator[Stored]:
        return self.batches()

    def _names(self, hooks: Sequence[str] | str | None) -> list[str]:
        names = self.hooks if hooks is None else [hooks] if isinstance(hooks, str) else list(hooks)
        for name in names:
            if name not in self.hooks:
                raise UnknownName(f'"{name}" is not stored in {self.folder}.{nearest(name, self.hooks)}')
        return names

    def __repr__(self) -> str:
        return f'Store("{self.folder}", {len(self)} tokens at {", ".join(self.hooks)})'


@takes_values
def store(
    lens: Lens | tuple[Lens, Lens],
    texts: Texts | Iterable[Any],
    hooks: Sequence[int | str],
    folder: str | Path,
    *,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
    shard_tokens: int = 32768,
    dtype: torch.dtype | None = None,
) -> Store:
    """Write activations to disk, or go on with writing them.

    Tokens that are attention sinks (`Lens.sinks`) at any of the hook points are not written.

    Args:
        lens: The model; or two, for the difference of their activations on the same tokens.
        texts: Documents.
        hooks: Layer numbers (the residual stream after them) or hook names.
        folder: Where to; a new folder, or one in which the same call was interrupted.
        roles: Roles of the tokens to keep; `None` for all that are not padding.
        scan: How the text is read: tokens a batch, where texts are cut.
        shard_tokens: A shard ends with the text that fills it to this many tokens. Memory is a batch and a shard.
        dtype: As what to store; the model's own by default.

    Returns:
        The finished store.

    Raises:
        BadArgument: When the folder holds a store made otherwise (it says in what), or something that is no store.
        CaftLensError: As `stream`.

    Example:
        >>> acts = store(base, corpus, [1, 2], "runs/acts", roles=None)
        >>> acts.hooks
        ['blocks.1.hook_resid_post', 'blocks.2.hook_resid_post']
    """
    lenses, folder = pair(lens), absolute(folder)
    count(shard_tokens, "shard_tokens")
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    settings = _settings(lenses, texts, hook_names(lenses, hooks), roles, dtype)
    settings |= {"batch_tokens": scan.batch_tokens, "max_length": scan.max_length, "shard_tokens": shard_tokens}
    about = {"models": [each.name for each in lenses], "data": texts.name}
    index = _read_index(folder)
    if index is None or not index["complete"]:
        with files.locked(folder):
            for left in folder.glob(".*"):  # of a writer that was killed: nobody else is in
                if left.is_file():
                    left.unlink(missing_ok=True)
            _write(lenses, texts, folder, settings, about, dtype, scan)
    else:
        _begin(folder, settings, about)
    return Store.open(folder)


def _write(
    lenses: Lenses,
    texts: Texts,
    folder: Path,
    settings: dict[str, Any],
    about: dict[str, Any],
    dtype: torch.dtype | None,
    scan: Scan,
) -> None:
    """Write what a store still lacks; the folder is locked."""
    index = _begin(folder, settings, about)
    if index["complete"]:
        return
    done = index["shards"][-1]["texts"][1] if index["shards"] else 0
    with progress_bar(total=len(texts), desc="storing", unit="text", show=scan.watch is None) as bar:
        bar.update(done)
        for items in _parts(lenses[0].tokenizer, texts, done, settings):
            tensors = _activations(lenses, items, settings, dtype)
            _add_shard(folder, index, tensors, [items[0].index, items[-1].index + 1])
            bar.update(len(items))
            scan.tell(items[-1].index + 1, len(texts))
    index["complete"] = True
    write_json(folder / INDEX, index)


def _settings(
    lenses: Lenses, texts: Texts, hooks: list[str], roles: Sequence[str] | None, dtype: torch.dtype | None
) -> dict[str, Any]:
    # Only where there are any: a store of a model without is what it always was.
    sinks = {"sinks": [lens.sinks.card(hooks) for lens in lenses]} if any(lens.sinks for lens in lenses) else {}
    return {
        **sinks,
        "models": [lens.fingerprint for lens in lenses],
        "reading": lenses[0].reading,
        "hooks": hooks,
        "data": texts.fingerprint,
        "texts": len(texts),
        "roles": role_names(roles),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
    }


def _read_index(folder: Path) -> dict[str, Any] | None:
    if not (folder / INDEX).is_file():
        return None
    index = files.read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise BadFile(f"{folder / INDEX} is not the index of an activation store.")
    files.parsed(index, _Index, str(folder / INDEX), "the index of an activation store")
    return index


def _begin(folder: Path, settings: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The index to go on with, new or found."""
    index = _read_index(folder)
    if index is None:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise BadArgument(f"{folder} holds files but no activation store: give a new folder.")
        index = {"format": _FORMAT, "complete": False, "about": about, "settings": settings, "shards": []}
        write_json(folder / INDEX, index)
        return index
    there = index["settings"]
    changed = [
        f"{key}: {there.get(key)} there, {value} here"
        for key, value in settings.items()
        # A store that is older does not say how its texts were read.
        if there.get(key) != value and (key != "reading" or key in there)
    ]
    if changed:
        raise BadArgument(
            f"{folder} holds an activation store that was made otherwise ({'; '.join(changed)}). "
            "Give another folder, or delete this one."
        )
    _check_shards(folder, index)
    return index


def _check_shards(folder: Path, index: dict[str, Any]) -> None:
    for shard in index["shards"]:
        path = inside(folder, shard["file"])
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            state = "truncated or changed" if path.is_file() else "missing"
            raise BadFile(f"{path} is {state}: delete {folder} and store again.")


def _parts(tokenizer: Any, texts: Texts, start: int, settings: dict[str, Any]) -> Iterator[list[Encoded]]:
    """Texts by the shard, each encoded; where a shard ends depends on the texts before it in the shard only."""
    roles = None if settings["roles"] is None else check_role_names(settings["roles"], ROLES)
    cuts = Cuts(settings["max_length"])
    items: list[Encoded] = []
    held, before = 0, start > 0
    for item in encoded(tokenizer, texts[start:], max_length=settings["max_length"], first_index=start):
        cuts.see(item)
        items.append(item)
        held += len(item.roles) if roles is None else int(np.isin(item.roles, roles).sum())
        if held >= settings["shard_tokens"]:
            yield items
            items, held, before = [], 0, True
    # Texts at the end without a wanted token make no shard; when that is all of them, the pass says what is wrong.
    if held or not before:
        yield items
    cuts.warn()


def _activations(
    lenses: Lenses, items: Sequence[Encoded], settings: dict[str, Any], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """All tensors of a shard, tokens in the order of the input."""
    parts: dict[str, list[Tensor]] = {name: [] for name in (*settings["hooks"], *_ABOUT_TOKENS)}
    batches = pack(items, padding_id(lenses[0].tokenizer), batch_tokens=settings["batch_tokens"])
    for found in captured(lenses, batches, settings["hooks"], settings["roles"], sinks="leave out together"):
        row, position = found.where[settings["hooks"][0]].unbind(dim=1)
        parts["index"].append(found.batch.index[row])
        parts["position"].append(position.int())
        parts["token"].append(found.batch.input_ids[row, position].int())
        for name, acts in found.acts.items():
            parts[name].append(acts.to("cpu", dtype or acts.dtype))
    tensors = {name: torch.cat(pieces) for name, pieces in parts.items()}
    order = torch.from_numpy(np.lexsort((tensors["position"].numpy(), tensors["index"].numpy())))
    return {name: tensor[order] for name, tensor in tensors.items()}


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _add_shard(folder: Path, index: dict[str, Any], tensors: dict[str, Tensor], texts: list[int]) -> None:
    from safetensors.torch import save_file

    path = folder / _shard_name(len(index["shards"]))
    with files.atomic_path(path) as temporary:
        save_file(tensors, temporary)
    # The index names a shard only once it is whole: a kill in between writes the same shard again.
    entry = {"file": path.name, "texts": texts, "tokens": len(tensors["index"]), "bytes": path.stat().st_size}
    index["shards"].append({**entry, "sha256": files.file_hash(path)})
    write_json(folder / INDEX, index)


def _read(path: Path, hooks: Sequence[str], start: int, stop: int, known: bool) -> Stored:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        acts, about = ({name: file.get_slice(name)[start:stop] for name in names} for names in (hooks, _ABOUT_TOKENS))
    for name, found in acts.items():
        # Of a shard with a hash that was checked when it was written.
        if not known and not bool(found.isfinite().all()):
            raise BadFile(f'{path}: "{name}" holds NaN or infinite values: store again.')
    return Stored(acts, **about)


def _check_tensors(path: Path, hooks: Sequence[str], tokens: int) -> None:
    """Refuse a file that does not hold the tensors of a shard."""
    kinds = files.tensor_kinds(path)
    for name in (*hooks, *_ABOUT_TOKENS):
        kind, shape = kinds.get(name, ("no tensor", []))
        about = name in _ABOUT_TOKENS
        if kind not in (_INTEGERS if about else _FLOATS) or len(shape) != (1 if about else 2) or shape[0] != tokens:
            expected = f"whole numbers of shape [{tokens}]" if about else f"numbers of shape [{tokens}, d]"
            raise BadFile(f'{path}: "{name}" is {kind} of shape {shape}; expected {expected}. Store again.')


def _rows(stored: Stored, rows: Tensor) -> Stored:
    return Stored(
        {name: acts[rows] for name, acts in stored.acts.items()},
        **{name: getattr(stored, name)[rows] for name in _ABOUT_TOKENS},
    )


def _joined(parts: Sequence[Stored]) -> Stored:
    if len(parts) == 1:
        return parts[0]
    return Stored(
        {name: torch.cat([part.acts[name] for part in parts]) for name in parts[0].acts},
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in _ABOUT_TOKENS},
    )


# -- what an index holds ----------------------------------------------------------------------------------------------


class _Shard(Record):
    file: Named
    texts: tuple[Count, Count]
    tokens: Count
    bytes: Count
    sha256: str | None = None


class _Settings(Record):
    """What a store was made of; whatever else is told is compared as it is."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    models: Annotated[list[str], Field(min_length=1, max_length=2)]
    hooks: Annotated[list[Named], Field(min_length=1)]
    data: str
    texts: Count
    roles: list[str] | None
    dtype: str | None
    batch_tokens: Count
    max_length: Count | None
    shard_tokens: Count


class _About(Record):
    models: list[str]
    data: str | None


class _Index(Record):
    format: Literal["caft_lens.Store"]
    complete: bool
    about: _About
    settings: _Settings
    shards: list[_Shard]

    @model_validator(mode="after")
    def _in_order(self) -> _Index:
        end = 0
        for number, shard in enumerate(self.shards):
            if shard.file != _shard_name(number):
                raise ValueError(f"shard {number} is the file {_shard_name(number)}, not {shard.file!r}")
            if shard.texts[0] != end or not end < shard.texts[1] <= self.settings.texts:
                raise ValueError(
                    f"shard {number} holds texts from {end} on, of {self.settings.texts}, not {list(shard.texts)}"
                )
            end = shard.texts[1]
        return self


# `cl.store(...)` is both this module and its function.
lazy.callable_module(__name__, "store")
