"""Mean and covariance of activations, from a stream.

Each batch is centred on its own mean and merged by the formula of Chan, Golub and LeVeque (1979), as are two partial
results: activations far from zero lose nothing, and any split of the text gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from caft_lens._support import files
from caft_lens._support.errors import BadArgument, BadData, BadFile, ConceptMismatch, UnknownName, nearest
from caft_lens._support.files import Json, Named, Record, check_tensor, tensors_hash
from caft_lens.text.batching import Batch

_FORMAT = "caft_lens.Moments"


class _Card(Record):
    """What the metadata of the file tell."""

    format: Literal["caft_lens.Moments"]
    hooks: list[Named]
    provenance: Json
    tensors: str | None = None


class Moments:
    """Count, mean and covariance of activations at any number of hook points.

    Args:
        covariance: Whether to keep the `[d, d]` matrix; without it, means only, at next to no cost.
        provenance: Where the activations come from; `activation_difference` fills it in.

    Attributes:
        count: Number of tokens by hook name.
        mean: Mean activation by hook name, float64 `[d]`, on the CPU.
        covariance: Covariance (over n - 1) by hook name, float64 `[d, d]`, on the CPU; made when it is asked for.
        provenance: A dict of JSON values.

    Example:
        >>> moments = Moments()
        >>> acts = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> moments.update("blocks.0.hook_resid_post", acts)
        >>> moments.mean["blocks.0.hook_resid_post"].tolist()
        [2.0, 4.0]
        >>> moments.covariance["blocks.0.hook_resid_post"].tolist()
        [[2.0, 4.0], [4.0, 8.0]]
    """

    def __init__(self, *, covariance: bool = True, provenance: Mapping[str, Any] | None = None) -> None:
        self._with_covariance = covariance
        self.provenance: dict[str, Any] = dict(provenance or {})
        self._count: dict[str, int] = {}
        self._mean: dict[str, Tensor] = {}
        self._products: dict[str, Tensor] = {}

    @property
    def hooks(self) -> list[str]:
        """The hook points seen so far, in order."""
        return list(self._count)

    @property
    def count(self) -> Mapping[str, int]:
        return _Named(self._count, self._count.__getitem__)

    @property
    def mean(self) -> Mapping[str, Tensor]:
        return _Named(self._count, self._mean.__getitem__)

    @property
    def covariance(self) -> Mapping[str, Tensor]:
        return _Named(self._count, self._covariance)

    def _covariance(self, hook: str) -> Tensor:
        if not self._with_covariance:
            raise BadArgument("These moments hold means only: make them with Moments(covariance=True).")
        if self._count[hook] < 2:
            raise BadData(f"{hook}: a covariance needs at least 2 tokens, there is {self._count[hook]}.")
        return self._products[hook] / (self._count[hook] - 1)

    def update(self, hook: str, acts: Tensor, batch: Batch | None = None, where: Tensor | None = None) -> None:
        """Take in activations `[n_tokens, d]` of one hook point.

        Products are taken in fp32 on the device of the activations, after centring, and added up in fp64 on the CPU.
        """
        if len(acts) == 0:
            return
        acts = acts.detach().float()
        centre = acts.mean(dim=0)
        if not self._with_covariance:
            self._add(hook, len(acts), centre.cpu().double(), None)
            return
        centred = acts - centre
        products = _products(centred)
        # The centre is the mean rounded to fp32; what is left over would count as variance where means are large.
        rest = centred.mean(dim=0).cpu().double()
        self._add(hook, len(acts), centre.cpu().double() + rest, products.addr_(rest, rest, alpha=-len(acts)))

    def _add(self, hook: str, n: int, mean: Tensor, products: Tensor | None) -> None:
        if hook not in self._count:
            self._count[hook], self._mean[hook] = n, mean
            if products is not None:
                self._products[hook] = products
            return
        if mean.shape != self._mean[hook].shape:
            raise BadArgument(
                f"{hook}: activations {len(mean)} wide, but so far they were {len(self._mean[hook])} wide."
            )
        before = self._count[hook]
        total = before + n
        step = mean - self._mean[hook]
        self._mean[hook] += step * (n / total)
        if products is not None:
            self._products[hook] += products
            self._products[hook].addr_(step, step, alpha=before * n / total)
        self._count[hook] = total

    def merge(self, other: Moments) -> Moments:
        """Add another result in place, exactly as if its tokens had been seen here.

        Raises:
            ConceptMismatch: When the two come from different models, roles or methods.
        """
        if self._with_covariance != other._with_covariance:
            raise BadArgument("One of the two moments holds covariances and the other means only.")
        for key in ("fingerprint", "tuned_fingerprint", "reading", "roles", "method"):
            mine, theirs = self.provenance.get(key), other.provenance.get(key)
            if key == "reading" and None in (mine, theirs):
                continue  # those that are older do not say how their texts were read
            if self.provenance and other.provenance and mine != theirs:
                raise ConceptMismatch(f"Moments of different provenance: {key} is {mine} here and {theirs} there.")
        for hook in other._count:
            products = other._products[hook].clone() if self._with_covariance else None
            self._add(hook, other._count[hook], other._mean[hook].clone(), products)
        self._merge_provenance(other.provenance)
        return self

    def _merge_provenance(self, theirs: Mapping[str, Any]) -> None:
        if not self.provenance or not theirs:
            self.provenance = {**theirs, **self.provenance}
            return
        mine = self.provenance
        data = [*_listed(mine.get("data")), *_listed(theirs.get("data"))]
        self.provenance = {**mine, "data": data, "tokens": mine.get("tokens", 0) + theirs.get("tokens", 0)}
        if sinks := theirs.get("sinks"):
            before = mine.get("sinks", {}).get("left_out", {})
            left_out = {hook: before.get(hook, 0) + number for hook, number in sinks["left_out"].items()}
            self.provenance["sinks"] = {**sinks, "left_out": {**before, **left_out}}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the provenance, as tensors."""
        state: dict[str, Tensor] = {}
        for hook in self.hooks:
            state[f"{hook}/count"] = torch.tensor(self._count[hook])
            state[f"{hook}/mean"] = self._mean[hook]
            if self._with_covariance:
                state[f"{hook}/products"] = self._products[hook]
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        hooks = [key.removesuffix("/count") for key in state if key.endswith("/count")]
        self._count = {hook: int(state[f"{hook}/count"]) for hook in hooks}
        self._mean = {hook: state[f"{hook}/mean"].clone() for hook in hooks}
        self._with_covariance = all(f"{hook}/products" in state for hook in hooks)
        self._products = {hook: state[f"{hook}/products"].clone() for hook in hooks if self._with_covariance}

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically, with the provenance in its metadata; returns the path."""
        from safetensors.torch import save_file

        state = self.state_dict()
        card = {"format": _FORMAT, "hooks": self.hooks, "provenance": self.provenance, "tensors": tensors_hash(state)}
        text = files.json_text(card, str(path))
        with files.atomic_path(path) as temporary:
            # One key: safetensors writes several in random order, and equal moments shall be equal files.
            save_file(state, temporary, {"card": text})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read what `save` wrote.

        Raises:
            MissingFile: When there is no such file.
            BadFile: When the file is something else, or was changed; a `ValueError`.
        """
        from safetensors import safe_open

        if not Path(path).is_file():
            raise files.missing(path)
        with files.reading_tensors(path), safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("card", "{}")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        card = files.unsealed(files.parse_json(text, f"{path}: its card"), path)
        if not isinstance(card, dict) or card.get("format") != _FORMAT:
            raise BadFile(f"{path} holds no moments: expected a file written by Moments.save.")
        record = files.parsed(card, _Card, str(path), "the card of moments")
        if record.tensors not in (None, tensors_hash(state)):
            raise BadFile(f"{path} was changed after it was written: its numbers do not fit its card.")
        moments = cls(provenance=card["provenance"])
        # safetensors sorts its keys; the order of hooks is part of the result.
        moments.load_state_dict(_checked(state, record.hooks, path))
        return moments

    def __repr__(self) -> str:
        seen = ", ".join(f"{hook}: {count} tokens" for hook, count in self._count.items())
        return f"Moments({seen or 'empty'})"


def _checked(state: Mapping[str, Tensor], hooks: list[str], path: str | Path) -> dict[str, Tensor]:
    """The tensors of some hooks in their order, each of its kind and shape; and no others."""
    parts = ["count", "mean", "products"] if any(key.endswith("/products") for key in state) else ["count", "mean"]
    keys = [f"{hook}/{part}" for hook in hooks for part in parts]
    if sorted(keys) != sorted(state):
        odd = sorted({*keys} ^ {*state})
        raise BadFile(f"{path} does not hold what its card tells of: {', '.join(odd[:3]) or 'a hook twice'}.")
    for hook in hooks:
        count = state[f"{hook}/count"]
        if count.dtype != torch.int64 or count.shape != () or int(count) < 1:
            raise BadFile(f'{path}: "{hook}/count" is {count!r}; expected a whole number of tokens.')
        width = len(check_tensor(state, f"{hook}/mean", (None,), path))
        if "products" in parts:
            check_tensor(state, f"{hook}/products", (width, width), path)
    return {key: state[key] for key in keys}


def _products(rows: Tensor) -> Tensor:
    """`rows.T @ rows` of fp32 `[n, d]`, symmetric to the last bit, as fp64 on the CPU."""
    # Twice the work that BLAS's syrk does, in less time: SciPy's threads wait for torch's, and the other way round.
    upper = (rows.T @ rows).cpu().double().triu()
    return upper + upper.triu(1).T


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


class _Named(Mapping[str, Any]):
    """A read-only view by hook name, with values made when they are asked for."""

    def __init__(self, names: Mapping[str, int], get: Callable[[str], Any]) -> None:
        self._names, self._get = names, get

    def __getitem__(self, hook: str) -> Any:
        if hook not in self._names:
            raise UnknownName(f'No moments at "{hook}".{nearest(hook, self._names)}')
        return self._get(hook)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
