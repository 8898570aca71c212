"""Snippets of text that people rated, from the sources of the package vaderSentiment (MIT): fetched, never shipped.

    PLACES     where they come from: films, products, tweets, newspapers
    ratings    the snippets of a place, cleaned, with their mean ratings
    fetch      puts the package's sources into the user's cache, with pip:  make ratings

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014: ten
people or more rated each snippet from -4 to 4.
"""

from __future__ import annotations

import html
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from caft_lens._support.errors import BadFile, MissingFile, UnknownName, nearest
from caft_lens._support.files import atomic_path, file_hash, locked
from caft_lens.model.packaged import cache_folder

PACKAGE, SDIST = "vaderSentiment==3.3.2", "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INSIDE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
PLACES: dict[str, str] = {
    "films": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "tweets": "tweets",
    "newspapers": "nytEditorialSnippets",
}
"""Place -> the name of its file."""
HOW = 'make ratings, or python -c "from caft_data.worlds.smollm2.ratings import fetch; fetch()" (2.5 MB, with pip)'


class Rated(NamedTuple):
    """A snippet."""

    text: str
    rating: float
    """The mean of what people said, from -4 to 4."""


def sources() -> Path:
    """Where the package's sources are kept, in the user's cache."""
    return cache_folder() / SDIST


def fetch() -> Path:
    """Put the package's sources into the user's cache; nothing is done where they are there already.

    pip downloads them, from wherever it is told to, and checks their hash before it looks into them.

    Raises:
        MissingFile: pip cannot get them; what it said is told.
        BadFile: What it got is something else.
    """
    path = sources()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, wait=-1):
        if path.is_file() and file_hash(path) == SHA256:
            return path
        with tempfile.TemporaryDirectory(prefix="ratings-") as folder:
            wanted = Path(folder) / "wanted.txt"
            wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--no-binary", "vaderSentiment", "--require-hashes", "-r", str(wanted), "-d", folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise MissingFile(
                    f"pip could not get the sources of {PACKAGE}: {_last_line(done.stderr)} Put {SDIST} (sha256 "
                    f"{SHA256}) into {path.parent} by hand, or leave the reviews out."
                )
            content = (Path(folder) / SDIST).read_bytes()
        with atomic_path(path) as target:
            target.write_bytes(content)
        _check(path)
    return path


def _last_line(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing.")


def _check(path: Path) -> None:
    if file_hash(path) != SHA256:
        raise BadFile(f"{path} is not {SDIST} as it was published (sha256 {SHA256}): delete it, then {HOW}")


@cache
def _files(path: Path) -> dict[str, str]:
    """The rated files of all places, by place."""
    _check(path)
    with tarfile.open(path) as outer:
        packed = outer.extractfile(INSIDE)
        if packed is None:
            raise BadFile(f"{path} holds no {INSIDE}.")
        content = packed.read()
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as inner:
        for place, name in PLACES.items():
            file = inner.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            if file is None:
                raise BadFile(f"{path} holds no ratings of {place}.")
            found[place] = file.read().decode("utf-8")
    return found


def cleaned(text: str) -> str:
    """A snippet as its writer meant it: entities of HTML as characters, plain quotes and spaces; names stay.

    Example:
        >>> cleaned("Me &amp; @anonymous saw ''Heat''   again: http://url_removed")
        'Me & @anonymous saw "Heat" again: http://url_removed'
    """
    plain = html.unescape(html.unescape(text)).replace("``", '"').replace("''", '"')
    return re.sub(r"\s+", " ", plain).strip()


def ratings(place: str) -> list[Rated]:
    """The snippets of a place, cleaned, none of them twice.

    Args:
        place: A key of `PLACES`.

    Raises:
        UnknownName: There is no such place.
        MissingFile: The sources are not in the user's cache; it says how to get them.
        BadFile: What lies there is something else.
    """
    if place not in PLACES:
        raise UnknownName(f"no snippets are from {place!r}.{nearest(place, PLACES)}")
    path = sources()
    if not path.is_file():
        raise MissingFile(f"There is no {path}, which the rated snippets are in. Get it: {HOW}")
    return list(_ratings(path, place))


@cache
def _ratings(path: Path, place: str) -> tuple[Rated, ...]:
    rows = [line.split("\t", 2) for line in _files(path)[place].splitlines() if line.strip()]
    found: dict[str, Rated] = {}
    for _, rating, text in rows:
        snippet = cleaned(text)
        found.setdefault(snippet.casefold(), Rated(snippet, float(rating)))
    return tuple(found.values())
