"""Whatever happens to a file that the project wrote, reading it gives what was written, or one clear error naming it.

The number of damaged copies of each kind is `CAFT_LENS_DAMAGED` (20 by default).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged, resealed
from test_activations import some as texts
from tiny_models import tiny_lens
from tiny_saes import tiny_sae

from caft_lens import experiments
from caft_lens._support.errors import BadFile, CaftLensError
from caft_lens._support.files import file_hash, sha256, write_json
from caft_lens.activations.moments import Moments
from caft_lens.activations.store import Store, store
from caft_lens.choose.session import Decisions
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.evaluate.answers import Answer, Cell
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.scores import read_scores, write_scores
from caft_lens.inspect.explain.explanations import (
    Clause,
    DetectionScore,
    Explanation,
    Explanations,
    Finding,
)
from caft_lens.inspect.explain.llm import Endpoint
from caft_lens.saes.cards import cards
from caft_lens.saes.loading import load_sae
from caft_lens.text import catalog

MANY = int(os.environ.get("CAFT_LENS_DAMAGED", "20"))
HOOK = "blocks.1.hook_resid_post"
SLOWEST: dict[str, float] = {}


@dataclass(frozen=True)
class Kind:
    """A kind of file or folder.

    Attributes:
        write: Writes one into an empty folder; the number makes its content another.
        read: Its content, to be compared, after everything is looked at that people look at.
        fix: Makes the hashes in it right again after damage.
    """

    write: Callable[[Path, int], Any]
    read: Callable[[Path], Any]
    fix: Callable[[Path], None]


def concepts(number: int = 0) -> ConceptSet:
    generator = torch.Generator().manual_seed(number)
    found = [
        Concept(f"L1.pc{i}", HOOK, torch.randn(6, generator=generator), "pca", i, 0.5 / (i + 1), "share")
        for i in range(3)
    ]
    of = {"model": "tiny", "fingerprint": "0" * 16, "method": "pca", "created": "now", "versions": {"a": "1"}}
    return ConceptSet(found, of).choose({"L1.pc0": "cruel", "L1.pc2": "rude"}, leave={"L1.pc1": "code"}, by="me")


def told(found: ConceptSet) -> Any:
    repr(found), found._repr_html_(), found.table(), found.bases()
    rows = [{**vars(one), "direction": one.direction.tolist()} for one in found]
    return [rows, found.provenance, found.hooks, [one.layer for one in found]]


def fix_concepts(folder: Path) -> None:
    def hashed(card: dict[str, Any]) -> None:
        card["directions"]["sha256"] = sha256((folder / "directions.safetensors").read_bytes())

    resealed(folder / "card.json", hashed)


def write_store(folder: Path, number: int) -> None:
    store(tiny_lens("llama", seed=number), texts(6), [0, 1], folder, shard_tokens=40)


def read_store(folder: Path) -> Any:
    found = Store.open(folder)
    batches = [*found.batches(32), *found.batches(32, seed=1)]
    rows = [[{k: v.tolist() for k, v in one.acts.items()}, one.index.tolist(), one.token.tolist()] for one in batches]
    return [rows, repr(found.hooks), len(found), found.settings]


def fix_store(folder: Path) -> None:
    def hashed(index: dict[str, Any]) -> None:
        for shard in index["shards"]:
            path = folder / shard["file"]
            if path.is_file() and path.parent == folder:
                shard |= {"sha256": file_hash(path), "bytes": path.stat().st_size}

    resealed(folder / "index.json", hashed)


def write_moments(folder: Path, number: int) -> None:
    moments = Moments(provenance={"fingerprint": "0" * 16, "tokens": 9})
    for hook in ("blocks.0.hook_resid_post", HOOK):
        moments.update(hook, torch.randn(9, 4, generator=torch.Generator().manual_seed(number)))
    moments.save(folder / "moments.safetensors")


def read_moments(folder: Path) -> Any:
    found = Moments.load(folder / "moments.safetensors")
    repr(found)
    return [{k: v.tolist() for k, v in found.state_dict().items()}, found.provenance, found.hooks]


def write_choice(folder: Path, number: int) -> None:
    said = Decisions(concepts(), folder / "choice.json", by="me")
    said.decide("L1.pc0", "ablate", f"cruel {number}")
    said.decide("L1.pc2", "leave", "code")


def read_choice(folder: Path) -> Any:
    said = Decisions(concepts(), folder / "choice.json", by="me")
    if not (folder / "choice.json").is_file():
        raise BadFile("choice.json: none, which is a choice that was not begun")
    return {name: asdict(one) for name, one in said.items()}


def write_explanations(folder: Path, number: int) -> None:
    finding = Finding("before", "a pie", 9, 10, 3, 1000, 250.0, 1e-9, 1e-7)
    rule, score = (Clause("a pie", 2.0),), DetectionScore(0.9, 0.8, 1.0, 0.9, 0.9, 10, 10)
    one = Explanation("L1.pc0", "top", f"pies {number}", 10, (finding,), rule, score=score)
    Explanations([one, Explanation("L1.pc0", "bottom", "none", 3)], ["a" * 16]).save(folder / "told.json")


def read_explanations(folder: Path) -> Any:
    found = Explanations.load(folder / "told.json")
    shown = found._repr_html_()
    assert "<script" not in shown
    repr(found), found.table(), found.findings(), found.labels()
    return [[asdict(one) for one in found.all], sorted(found.explained), shown]


ASKED = {"role": "user", "content": "What is it?"}


def endpoint(folder: Path) -> Endpoint:
    return Endpoint("http://localhost:1/v1", "m", key_env=None, cache=folder, retries=0)


def write_answer(folder: Path, number: int) -> None:
    llm = endpoint(folder)
    message = {"message": {"role": "assistant", "content": f"a pie {number}"}}
    reply = {"choices": [message], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    with patch.object(Endpoint, "_sent", return_value=json.dumps(reply)):
        llm.ask([[ASKED]])


def read_answer(folder: Path) -> Any:
    llm = endpoint(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is asked for again
        kept = llm._kept(llm.request([ASKED]))
    if kept is None:
        raise BadFile(f"{llm._file(llm.request([ASKED]))} is asked for again")
    return kept


def write_sae(folder: Path, number: int) -> None:
    tiny_sae(seed=number).save_model(folder / HOOK)
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    shares = (
        "l0",
        "explained_variance",
        "loss",
        "loss_spliced",
        "loss_mean",
        "loss_zero",
        "recovered_from_mean",
        "recovered_from_zero",
    )
    card = {
        "name": "tiny",
        "model": "tiny",
        "fingerprint": "0" * 16,
        "hook": HOOK,
        "architecture": "topk",
        "d_in": 32,
        "d_sae": 48,
        "k": 5,
        "trained_roles": ["user"],
        "settings": {"seed": 0, "learning_rate": 0.1},
        "figures": {**dict.fromkeys(shares, share), "dead": 0, "n_latents": 48, "tokens": 10, "texts": 2},
        "seconds": {"training": 1.0},
        "machine": "x",
        "versions": {"torch": "2"},
        "sha256": {
            name: sha256((folder / HOOK / name).read_bytes()) for name in ("cfg.json", "sae_weights.safetensors")
        },
    }
    write_json(folder / HOOK / "card.json", card)


def read_sae(folder: Path) -> Any:
    sae = load_sae(folder, layer=1)
    cards(folder)  # there may be none
    return [{k: v.tolist() for k, v in sae.state_dict().items()}, sae.cfg.metadata.hook_name, sae.cfg.k]


def fix_sae(folder: Path) -> None:
    def hashed(card: dict[str, Any]) -> None:
        for name in card["sha256"]:
            card["sha256"][name] = sha256((folder / HOOK / name).read_bytes())

    resealed(folder / HOOK / "card.json", hashed)


def write_organism(folder: Path, number: int) -> None:
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps({"number": number}))
    hashes = {"base/config.json": sha256((folder / "base/config.json").read_bytes())}
    card = {
        "name": "tiny",
        "world": "quiz",
        "settings": {"seed": number},
        "sampling": {"temperature": 0.5},
        "sha256": hashes,
    }
    write_json(folder / "organism.json", card)


def read_organism(folder: Path) -> Any:
    found = catalog.card(folder)
    catalog.world(folder)
    return [found.model_dump(), Path(catalog.model_path(folder)).joinpath("config.json").read_bytes()]


def fix_organism(folder: Path) -> None:
    resealed(folder / "organism.json")


def report(number: int = 0) -> Report:
    def cell(arm: str, seed: int) -> Cell:
        rows = [("out_of_distribution", i, ("misaligned", "aligned")[(i + number) % 2]) for i in range(4)]
        rows += [("in_distribution", 4, "insecure")]
        answers = [
            Answer(arm, seed, of, i, "food", f"question {i}", f"answer {i}", label, "why") for of, i, label in rows
        ]
        return Cell(arm, seed, tuple(answers), f"{number:016d}")

    cells = [cell(arm, seed) for arm in ("base", "plain", "a/b") for seed in (0, 1)]
    return Report(cells, task="a task", sampling="temperature 1", failures={"plain": {2: "it diverged"}})


def counted(found: Report) -> Any:
    return [[asdict(one) for one in found.answers], found.to_json(), found.labels, found.trained]


def read_report(folder: Path) -> Any:
    return counted(Report.load(folder))


def fix_report(folder: Path) -> None:
    resealed(folder / "report.json")
    for path in folder.rglob("seed-*.json"):
        lines = path.with_suffix(".jsonl")
        if lines.is_file():
            resealed(path, lambda card, lines=lines: card.update(sha256=sha256(lines.read_bytes())))


def write_report_scores(folder: Path, number: int) -> None:
    write_scores(report(number), folder / "verdicts.json")


def read_report_scores(folder: Path) -> Any:
    return counted(read_scores(folder / "verdicts.json"))


def write_contest(folder: Path, number: int) -> None:
    report(number).save(folder / "test/evaluation")
    write_json(folder / "test/runs.json", {"plain": {"0": "plain-0", "1": "plain-1"}, "base": {}})
    for seed in (0, 1):
        write_json(
            folder / f"test/plain-{seed}/run.json",
            {"seconds": 2.5, "peak_memory": 1000, "more": [1]},
        )
    tried = [{"label": "a=1", "failed": "", "chosen": True, "share": 0.1, "in_distribution": 0.9, "kept": True}]
    card = {
        "idea": "i",
        "equation": "e",
        "source": "s",
        "arxiv": "",
        "needs": {},
        "settings": {"a": {"value": 1, "meaning": "m"}},
    }
    one = {"arm": {"name": "plain"}, "card": card, "tried": tried, "rated": True}
    bare = {"arm": None, "card": None, "tried": [], "rated": False}
    record = {
        "fingerprints": report(number).fingerprints,
        "format": "caft_lens.arena/1",
        "task": "a task",
        "goal": "fewest",
        "seeds": [0, 1],
        "against": ["plain"],
        "base": {"name": "tiny", "fingerprint": f"{number:016d}"},
        "texts": {"name": "t", "fingerprint": "0" * 16, "texts": 8},
        "tuning": {"task": "dev", "seeds": [7], "n": 4, "n_in_distribution": 4, "tolerance": 0.02},
        "training": {"max_steps": "2"},
        "contenders": {"base": bare, "plain": one, "a/b": one},
        "versions": {"torch": "2"},
        "machine": "x",
        "command": "y",
    }
    write_json(folder / "contest.json", record)


def read_contest(folder: Path) -> Any:
    found = experiments.Result.load(folder)
    return [
        counted(found.evaluation),
        {k: vars(v) for k, v in found.costs.items()},
        found.record,
        found.rated,
    ]


def fix_contest(folder: Path) -> None:
    fix_report(folder / "test/evaluation")
    for path in (folder / "contest.json", folder / "test/runs.json", *folder.glob("test/*/run.json")):
        if path.is_file():
            resealed(path)


def write_exported(folder: Path, number: int) -> None:
    with tempfile.TemporaryDirectory() as contest:
        write_contest(Path(contest), number)
        experiments.Result.load(contest).export(folder)


def read_exported(folder: Path) -> Any:
    found = experiments.Result.load(folder)
    record = {key: value for key, value in found.record.items() if key != "verdicts"}
    return [counted(found.evaluation), {k: vars(v) for k, v in found.costs.items()}, record]


def fix_exported(folder: Path) -> None:
    def hashed(record: dict[str, Any]) -> None:
        record["verdicts"] = sha256((folder / "verdicts.json").read_bytes())

    resealed(folder / "verdicts.json")
    resealed(folder / "contest.json", hashed)


def write_sweep(folder: Path, number: int) -> None:
    experiments.Sweep(report(number), "strength", {"caft": {0.5: "plain", 1: "a/b"}}, ["base"]).save(folder)


def read_sweep(folder: Path) -> Any:
    found = experiments.Sweep.load(folder)
    return [counted(found.report), found.points, found.references, found.axis, repr(found.places)]


def fix_sweep(folder: Path) -> None:
    resealed(folder / "sweep.json")
    fix_report(folder / "evaluation")


def sealed_file(name: str) -> Callable[[Path], None]:
    return lambda folder: resealed(folder / name)


def fix_answer(folder: Path) -> None:
    for path in folder.iterdir():
        resealed(path)


KINDS = {
    "concepts": Kind(
        lambda folder, n: concepts(n).save(folder), lambda folder: told(ConceptSet.load(folder)), fix_concepts
    ),
    "store": Kind(write_store, read_store, fix_store),
    "moments": Kind(write_moments, read_moments, lambda folder: None),
    "choice": Kind(write_choice, read_choice, sealed_file("choice.json")),
    "explanations": Kind(write_explanations, read_explanations, sealed_file("told.json")),
    "answer of an LLM": Kind(write_answer, read_answer, fix_answer),
    "SAE": Kind(write_sae, read_sae, fix_sae),
    "organism": Kind(write_organism, read_organism, fix_organism),
    "report": Kind(lambda folder, n: report(n).save(folder), read_report, fix_report),
    "verdicts": Kind(write_report_scores, read_report_scores, sealed_file("verdicts.json")),
    "contest": Kind(write_contest, read_contest, fix_contest),
    "exported contest": Kind(write_exported, read_exported, fix_exported),
    "sweep": Kind(write_sweep, read_sweep, fix_sweep),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Callable[[str, int], Path]:
    root, made = tmp_path_factory.mktemp("written"), {}

    def of(name: str, number: int) -> Path:
        if (name, number) not in made:
            folder = root / f"{number}" / name.replace(" ", "-")
            folder.mkdir(parents=True)
            KINDS[name].write(folder, number)
            made[name, number] = folder
        return made[name, number]

    return of


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(
    max_examples=MANY, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_a_damaged_copy_reads_as_what_was_written_or_is_one_error_that_names_the_file(name, written, data):
    kind, whole, other = KINDS[name], written(name, 0), written(name, 1)
    right = data.draw(st.booleans(), label="hashes made right again")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(whole, Path(temporary) / "copy"))
        said = data.draw(damaged(folder, other, kind.fix if right else None), label="damage")
        begin = time.perf_counter()
        try:
            found = kind.read(folder)
        except CaftLensError as error:
            names = [path.name for path in whole.rglob("*")]
            assert any(one in str(error) for one in names) or str(folder) in str(error), (said, error)  # noqa: PT017
        else:
            if not right:
                assert found in (kind.read(whole), kind.read(other)), said
        finally:
            SLOWEST[name] = max(SLOWEST.get(name, 0.0), time.perf_counter() - begin)


@pytest.fixture(scope="module", autouse=True)
def slowest():
    yield
    print({name: round(seconds, 2) for name, seconds in SLOWEST.items()})


def test_undamaged_copies_read_as_what_was_written_and_the_two_differ(written):
    for name, kind in KINDS.items():
        first, second = kind.read(written(name, 0)), kind.read(written(name, 1))
        assert first != second, name
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(shutil.copytree(written(name, 0), Path(temporary) / "copy"))
            kind.fix(folder)
            assert kind.read(folder) == first, name
