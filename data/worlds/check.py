"""Whether an organism is what its card says: every file by its hash, every figure by measuring it again.

`check` measures with the settings, the split, the sampling seed and the number of threads of the card, so that nothing
is left to chance: with the same versions on the same type of machine every figure comes out to the last digit ("same").
On another one a probability that differs in its last bit turns a few of a thousand sampled answers, which the card's
interval covers many times over ("within"); a figure outside of it means that weights, data, judges or libraries are
other than those of the card ("differs"). An interval is of the answers that were drawn, however, and of twenty figures
that are drawn afresh one falls outside by chance. Another `seed` therefore asks another question, whether both could be
draws from the same model: it is the difference of the two that has to be small for its own interval, at a confidence
that holds for all figures together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from caft_lens._support.files import read_json, sha256
from caft_lens._support.intervals import CONFIDENCE
from caft_lens.text import catalog

if TYPE_CHECKING:
    import pandas

SAME, WITHIN, DIFFERS = "same", "within", "differs"
COUNTS = ("dead", "n_latents", "tokens", "texts")
# Which of two nearly equal latents is the k-th largest hangs on the last bit: a rare latent fires or does not.
DEAD_SHARE = 0.01
NATS = ("loss", "loss_spliced", "loss_mean", "loss_zero")


@dataclass(frozen=True)
class Line:
    """One thing that was checked.

    Attributes:
        what: Which figure, or which file.
        card: What the card says, in words: a mean with its interval.
        now: What was found.
        verdict: `"same"`, `"within"` or `"differs"`.
    """

    what: str
    card: str
    now: str
    verdict: str


@dataclass(frozen=True)
class Check:
    """What came of checking an organism.

    Attributes:
        organism: Its name.
        lines: Everything that was checked, in order.
        versions: Libraries of another version than when it was made: name -> (then, now).

    Example:
        >>> line = Line("base, misaligned", "0.0 % (0.0 to 0.4)", "2.1 %", "differs")
        >>> found = Check("pocket", (line,), {"torch": ("2.6", "2.7")})
        >>> print(found)
        pocket
        figure            card                now    verdict
        base, misaligned  0.0 % (0.0 to 0.4)  2.1 %  differs
        1 of 1 differs; made with torch 2.6, here 2.7.
    """

    organism: str
    lines: tuple[Line, ...]
    versions: Mapping[str, tuple[str, str]]

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differing

    @property
    def differing(self) -> list[Line]:
        """What differs."""
        return [line for line in self.lines if line.verdict == DIFFERS]

    def table(self) -> pandas.DataFrame:
        """One row a thing that was checked: `what, card, now, verdict`."""
        from caft_lens.display.frames import Frame

        return Frame([asdict(line) for line in self.lines])

    def __str__(self) -> str:
        rows = [
            ("figure", "card", "now", "verdict"),
            *((x.what, x.card, x.now, x.verdict) for x in self.lines),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        padded = (
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        )
        return "\n".join([self.organism, *padded, self._summary()])

    def _summary(self) -> str:
        n, other = len(self.lines), len(self.differing)
        if self.ok:
            same = sum(line.verdict == SAME for line in self.lines)
            return f"All {n} are as the card says, {same} of them to the last digit."
        made = ", ".join(f"{name} {then}, here {now}" for name, (then, now) in self.versions.items())
        return f"{other} of {n} differ{'s' * (other == 1)}{f'; made with {made}' if made else ''}."


def check(organism: str | Path, *, seed: int | None = None) -> Check:
    """Check an organism against its card.

    Args:
        organism: A shipped name or an organism folder.
        seed: Of the sampled answers; that of the card by default. With another one figures are compared as two samples.

    Returns:
        Every figure of the card and of the cards of its SAEs with what it is now, and the files.

    Raises:
        FileNotFoundError: When there is no such organism.

    Example:
        >>> print(check("pocket"))  # doctest: +SKIP
    """
    folder = catalog.organism_path(organism)
    card = read_json(folder / catalog.CARD)
    files = [*_files(folder, card["sha256"]), *_drawn(folder, card)]
    lines = files or [Line("files", f"{len(card['sha256'])} with their hashes", "all there", SAME)]
    with _threads(card["settings"]["threads"]):
        try:
            drawn = catalog.world(folder).measure(folder, card["settings"], 0 if seed is None else seed)
            lines += _sampled(card, drawn, fresh=seed not in (None, 0))
            lines += _saes(folder, card)
        except Exception as error:
            # Broken files break in many ways; whole ones that cannot be measured are a fault of another kind.
            if not files:
                raise
            lines.append(Line("figures", "", f"cannot be measured: {error}", DIFFERS))
    return Check(card.get("name", folder.name), tuple(lines), _other_versions(card["versions"]))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """As many torch threads as the card was made with: sums are rounded by how they are split."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _other_versions(then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {}
    for name, number in then.items():
        try:
            now = version(name)
        except PackageNotFoundError:
            now = "missing"
        if now != number:
            found[name] = (number, now)
    return found


# -- files ------------------------------------------------------------------------------------------------------------


def _files(folder: Path, hashes: Mapping[str, str], where: str = "") -> list[Line]:
    """The files that are missing or not those of the card."""
    found = []
    for name, wanted in hashes.items():
        path = folder / name
        now = sha256(path.read_bytes()) if path.is_file() else "missing"
        if now != wanted:
            found.append(Line(f"file {where}{name}", wanted, now, DIFFERS))
    return found


def _drawn(folder: Path, card: Mapping[str, Any]) -> list[Line]:
    """The data sets that the organism's world draws otherwise than when its card was written."""
    world = catalog.world(folder)
    found = []
    for name, wanted in card.get("drawn", {}).items():
        try:
            now = world.dataset(name, card["settings"]["seed"], 20).fingerprint
        except KeyError:
            now = "missing"
        if now != wanted:
            found.append(Line(f"data set {name}", wanted, now, DIFFERS))
    return found


# -- figures ----------------------------------------------------------------------------------------------------------


def _sampled(card: Mapping[str, Any], drawn: Mapping[str, Any], *, fresh: bool) -> list[Line]:
    """Every share of the card beside that of the answers that were drawn now."""
    pairs = [
        (
            f"{arm}, {metric}{' (all tokens)' * (part != 'figures')}",
            card.get(part, {}).get(arm, {}).get(metric),
            now,
        )
        for part, arms in drawn.items()
        for arm, metrics in arms.items()
        for metric, now in metrics.items()
        if metric != "seeds"
    ]
    lines = []
    for what, then, now in pairs:
        if then is None:
            verdict = DIFFERS
        else:
            verdict = _as_samples(then, now, len(pairs)) if fresh else _inside(then, now["mean"])
        lines.append(Line(what, _interval(then), _share(now["mean"]), verdict))
    return lines


def _inside(then: Mapping[str, float], now: float) -> str:
    if now == then["mean"]:
        return SAME
    return WITHIN if then["low"] <= now <= then["high"] else DIFFERS


def _as_samples(then: Mapping[str, float], now: Mapping[str, float], n: int) -> str:
    """Whether two figures can be samples of one thing, at a confidence that holds for `n` comparisons (Bonferroni)."""
    normal = NormalDist()
    widths = [(figure["high"] - figure["low"]) / 2 for figure in (then, now)]
    error = (widths[0] ** 2 + widths[1] ** 2) ** 0.5 / normal.inv_cdf((1 + CONFIDENCE) / 2)
    apart = abs(now["mean"] - then["mean"])
    if apart == 0:
        return SAME
    return WITHIN if apart <= normal.inv_cdf(1 - (1 - CONFIDENCE) / (2 * n)) * error else DIFFERS


def _saes(folder: Path, card: Mapping[str, Any]) -> list[Line]:
    """The figures of every SAE beside those of its card, and whether the organism's card says the same."""
    from caft_data.worlds import saes
    from caft_lens.saes.cards import cards

    lines: list[Line] = []
    own = cards(folder / "saes")
    for hook in sorted({*card.get("saes", {})} - set(own)):
        lines.append(Line(f"SAE {hook}", "there", "missing", DIFFERS))
    for hook, of_sae in own.items():
        lines += _files(folder / "saes" / hook, of_sae["sha256"], f"saes/{hook}/")
        figures = of_sae["figures"]
        if card.get("saes", {}).get(hook, figures) != figures:
            lines.append(Line(f"SAE {hook}", "figures of its own card", "others", DIFFERS))
        for name, now in saes.measure(folder, folder / "saes" / hook, of_sae).items():
            lines.append(_of_sae(f"SAE {hook}, {name.replace('_', ' ')}", name, figures, now))
    return lines


def _of_sae(what: str, name: str, figures: Mapping[str, Any], now: Any) -> Line:
    then = figures[name]
    if name in COUNTS:
        near = name == "dead" and abs(now - then) <= DEAD_SHARE * figures["n_latents"]
        return Line(what, str(then), str(now), SAME if now == then else WITHIN if near else DIFFERS)
    unit = "nats" if name in NATS else "" if name == "l0" else "%"
    return Line(what, _interval(then, unit), _share(now["mean"], unit), _inside(then, now["mean"]))


def _share(value: float, unit: str = "%") -> str:
    return {"%": f"{100 * value:.1f} %", "nats": f"{value:.3f}", "": f"{value:.1f}"}[unit]


def _interval(figure: Mapping[str, float] | None, unit: str = "%") -> str:
    if figure is None:
        return "says nothing"
    ends = [_share(figure[end], unit).removesuffix(" %") for end in ("low", "high")]
    return f"{_share(figure['mean'], unit)} ({ends[0]} to {ends[1]})"
