"""Kill what writes in the middle of its work, many times, and see what is left: old or new, never neither, and exact
when resumed.

    python benchmarks/kills.py [CASE …] [--kills 50] [--seed 0]

A case is how something is made in a folder (`work`: makes it, or goes on with what a killed one left) and how it is
read again (`result`: JSON values). Each kill is a SIGKILL at a random moment of the work, in a process and a folder of
its own. Afterwards the work is done again, and what it comes to must equal, bit for bit, what it comes to undisturbed.
A case with `before` starts from something older in the folder: right after the kill that or the new one must be there,
whole.

To add a case, write its functions and a line in `CASES`. All that they need is in their arguments: an empty folder.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caft_lens.text.batching import Scan

ROOT = Path(__file__).parents[1]
HERE, TESTS = Path(__file__).parent, ROOT / "tests"


@dataclass(frozen=True)
class Case:
    """Something that is killed while it is made.

    Args:
        work: Makes it in a folder, or goes on with it.
        result: What is in the folder, read as the library reads it, as JSON values; raises when nothing whole is.
        before: Makes an older one in the folder first; then the old or the new is there after each kill.
    """

    work: Callable[[Path], Any]
    result: Callable[[Path], Any]
    before: Callable[[Path], Any] | None = None


# -- the cases --------------------------------------------------------------------------------------------------------


def says_a(text: Any) -> str:
    """A judge that takes its time, so that kills meet it as well."""
    time.sleep(0.001)
    return "with a" if "a" in (text.answer or "") else "without"


def letters() -> Any:
    """A task for a tiny model."""
    import caft_lens as cl
    from caft_lens.evaluate import InDistribution

    asked = cl.Texts([{"prompt": f"question {i}"} for i in range(6)], name="asked")
    return cl.Task(
        "letters", asked, says_a, labels=("with a", "without"), max_new_tokens=6,
        in_distribution=InDistribution(asked, says_a, ("with a", "without"), "with a", 6),
    )  # fmt: skip


def evaluate(folder: Path) -> None:
    """Two models, two seeds."""
    from tiny_models import shaken, tiny_lens

    import caft_lens as cl

    base = tiny_lens()
    subjects = {"base": base, "tuned": shaken(base)}
    cl.evaluate(subjects, letters(), n=8, n_in_distribution=6, seeds=[0, 1], out=folder / "report")


def evaluated(folder: Path) -> Any:
    """Every answer with its verdict, and what was counted."""
    from caft_lens.evaluate import Report

    report = Report.load(folder / "report")
    # Hidden are locks, and what a dead writer left behind: that goes when it is an hour old.
    named = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    files = sorted(path.relative_to(folder).as_posix() for path in named)
    return [[asdict(answer) for answer in report.answers], report.to_json(), files]


def contest(folder: Path) -> None:
    """A base, plain fine-tuning, and an arm of which two settings are tried."""
    from tiny_models import tiny_lens

    import caft_lens as cl
    from caft_lens import experiments
    from caft_lens.finetune import methods

    base = tiny_lens()
    taught = cl.Texts([{"prompt": f"say {i}", "answer": "a a a a"} for i in range(8)], name="taught")
    general = cl.Texts([{"prompt": f"what of {i}?", "answer": "so it goes"} for i in range(3)], name="general")
    contenders = {
        "base": experiments.Contender(None),
        "plain": experiments.Contender(),
        "kl_anchor": experiments.Contender(methods.KLAnchor(general), search=[{"weight": 0.1}, {"weight": 1.0}]),
    }
    experiments.contest(
        letters(),
        contenders,
        seeds=[0],
        texts=taught,
        out=folder / "contest",
        base=base,
        n=6,
        n_in_distribution=4,
        tuning=experiments.Tuning((7,), 4, 4, task=letters(), goal="most"),
        settings=cl.TrainSettings(max_steps=2, learning_rate=1e-2),
        execution=experiments.Execution(workers=1, batch_size=2),
    )


def contested(folder: Path) -> Any:
    """Every answer of the test, what was counted, what was chosen."""
    from caft_lens.experiments import Result

    found = Result.load(folder / "contest")
    answers = [asdict(answer) for answer in found.evaluation.answers]
    return [answers, found.evaluation.to_json(), found.record["contenders"]]


def tuned(folder: Path, learning_rate: float) -> None:
    """A fine-tuning with a constant schedule, dropout and checkpoints, over whatever run is there."""
    from tiny_models import tiny_lens

    import caft_lens as cl

    texts = cl.Texts([{"prompt": f"How are you {i}?", "answer": "Fine " * (i % 5 + 1)} for i in range(24)], name="toy")
    cl.finetune(
        tiny_lens(),
        texts,
        cl.TrainSettings(
            overwrite=True,
            learning_rate=learning_rate,
            batch_size=4,
            epochs=2,
            save_steps=3,
            warmup_steps=0,
            lora=cl.LoraSettings(r=4, alpha=8, dropout=0.2),
            training_arguments={"lr_scheduler_type": "constant"},
        ),
        out=folder / "run",
    )


def tune(folder: Path) -> None:
    """The run that is killed."""
    tuned(folder, 2e-3)


def tuned_before(folder: Path) -> None:
    """The run that it replaces."""
    tuned(folder, 1e-3)


def tuning(folder: Path) -> Any:
    """What was asked, the curves, and the weights bit for bit."""
    from tiny_models import tiny_lens

    import caft_lens as cl

    run = cl.Run.load(folder / "run", base=tiny_lens())
    hashes = {name: known for name, known in run.record["files"].items() if name.endswith(".safetensors")}
    return [run.config, run.history, run.lens.fingerprint, hashes]


def saes(folder: Path) -> None:
    """SAEs of two layers, saved on the way."""
    from tiny_models import tiny_lens

    import caft_lens as cl

    rng = random.Random(0)
    texts = cl.Texts(
        [{"text": " ".join(rng.choices(["a", "bee", "sees", "the", "sea", "and", "goes"], k=40))} for _ in range(400)]
    )
    settings = cl.saes.SaeSettings(
        d_sae=48, k=6, tokens=8000, batch_size=64, buffer_tokens=1024, save_tokens=1500, warmup_steps=2
    )
    cl.saes.train(tiny_lens(), texts[20:], [0, 1], folder / "saes", held_out=texts[:20], settings=settings)


def read_saes(folder: Path) -> Any:
    """Weights bit for bit, figures, and what lies in the folder."""
    import caft_lens as cl
    from caft_lens._support.files import tensors_hash
    from caft_lens.saes.cards import cards

    known = {hook: (card["figures"], card["sha256"]) for hook, card in cards(folder / "saes").items()}
    return [
        {sae.cfg.metadata.hook_name: tensors_hash(sae.state_dict()) for sae in cl.load_saes(folder / "saes")},
        known,
        sorted(path.name for path in (folder / "saes").iterdir()),
    ]


def concepts(number: int) -> Any:
    """A set large enough that a kill meets it while it is written."""
    import torch

    from caft_lens.concepts.concept_set import Concept, ConceptSet

    rows = torch.randn(200, 2000, generator=torch.Generator().manual_seed(number))
    hook, of = "blocks.1.hook_resid_post", {"created": "now", "versions": {}, "fingerprint": f"{number}"}
    return ConceptSet([Concept(f"L1.pc{i}", hook, row) for i, row in enumerate(rows)], of)


def save(folder: Path) -> None:
    """A set over the older one."""
    concepts(1).save(folder / "set")


def save_older(folder: Path) -> None:
    """The older one."""
    concepts(0).save(folder / "set")


def chosen(folder: Path) -> Any:
    """What is saved, by its bits and its words."""
    from caft_lens.concepts.concept_set import ConceptSet

    found = ConceptSet.load(folder / "set")
    return [found.fingerprint, found.provenance, sorted(path.name for path in (folder / "set").glob("[!.]*"))]


def store(folder: Path) -> None:
    """A store of several shards."""
    from tiny_models import tiny_lens

    import caft_lens as cl

    texts = cl.Texts([{"prompt": f"say {i}", "answer": "a b c d"} for i in range(40)], name="stored")
    cl.store(tiny_lens(), texts, [0, 1], folder / "acts", shard_tokens=20, scan=Scan(64))


def stored(folder: Path) -> Any:
    """The bytes of every file."""
    from caft_lens._support.files import hashes
    from caft_lens.activations.store import Store

    return [len(Store.open(folder / "acts")), hashes(folder / "acts")]


CASES = {
    "concepts": Case(save, chosen, save_older),
    "store": Case(store, stored),
    "finetune": Case(tune, tuning, before=tuned_before),
    "evaluate": Case(evaluate, evaluated),
    "saes": Case(saes, read_saes),
    "contest": Case(contest, contested),
}


# -- killing ----------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What came of the kills of a case.

    Attributes:
        name: Of the case.
        kills: How many met the work before it was done.
        wrong: A line for each that left something else than it should have.
        seconds: How long the work takes undisturbed.
    """

    name: str
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        told = "".join(f"\n    {line}" for line in self.wrong[:5])
        return f"{self.name}: {self.kills} kills in {self.seconds:.2f} s of work, {len(self.wrong)} wrong{told}"


def killed(name: str, kills: int = 50, seed: int = 0) -> Found:
    """Kill a case at random moments.

    Args:
        name: Of the case, in `CASES`.
        kills: How many have to meet it before it is done; those that come too late are checked and do not count.
        seed: Of the moments.
    """
    case, rng, found = CASES[name], random.Random(f"{name} {seed}"), Found(name)
    with _worker() as ask, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "it"

        def fresh(*what: str) -> list[dict[str, Any]]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            return [_whole(ask(name, each, folder)) for each in what]

        # Once for what is imported on the way, and once for how long it takes.
        first = ["before", "result"] if case.before is not None else []
        old = fresh(*first)[-1]["result"] if first else None
        fresh(*first[:1], "work", "result")
        made = fresh(*first[:1], "work", "result")
        found.seconds, new = made[-2]["seconds"], made[-1]["result"]
        for trial in range(4 * kills):
            if found.kills == kills:
                break
            fresh(*first[:1])
            moment = rng.uniform(0, 1.1 * found.seconds)
            found.kills += ask(name, "work", folder, moment)["killed"]
            at = f"kill {trial} at {moment:.3f} s"
            if first:
                left = ask(name, "result", folder)
                if left["error"] or left["result"] not in (old, new):
                    found.wrong.append(f"{at}: neither the old nor the new is there. {left['error']}")
            again = [ask(name, each, folder) for each in ("work", "result")]
            error = "".join(one["error"] for one in again)
            if error or again[-1]["result"] != new:
                found.wrong.append(f"{at}: resumed, it is not what it is undisturbed. {error}")
    if found.kills < kills:
        found.wrong.append(f"only {found.kills} of {kills} kills met the work: it is too short to be killed.")
    return found


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    if answer["error"]:
        raise RuntimeError(f"Undisturbed, it fails: {answer['error']}")
    return answer


@contextlib.contextmanager
def _worker() -> Iterator[Callable[..., dict[str, Any]]]:
    """A process that has everything imported and forks another for each thing to do."""
    command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
    environment = {
        **os.environ,
        "CAFT_LENS_PROGRESS": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(name: str, what: str, folder: Path, kill_after: float | None = None) -> dict[str, Any]:
        process.stdin.write(json.dumps([name, what, str(folder), kill_after]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the work prints is no reply
    import tiny_models  # noqa: F401

    import caft_lens.evaluate
    import caft_lens.experiments
    import caft_lens.finetune.finetuning  # noqa: F401

    for line in sys.stdin:
        name, what, folder, kill_after = json.loads(line)
        replies.write(json.dumps(_forked(getattr(CASES[name], what), Path(folder), kill_after)) + "\n")
        replies.flush()


def _forked(do: Callable[[Path], Any], folder: Path, kill_after: float | None) -> dict[str, Any]:
    """Do it in a process of its own, killed after some seconds; what it imported is imported here, for the next one."""
    with tempfile.NamedTemporaryFile() as told:
        gc.freeze()  # what is imported is not looked through again in every process
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            _do(do, folder, told.name)
        done = 0
        while not done:
            done, _ = os.waitpid(child, os.WNOHANG)
            if not done and kill_after is not None and time.monotonic() - begin > kill_after:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"killed": True, "error": "", "result": None, "seconds": kill_after}
            time.sleep(0.0005)
        reply = json.loads(Path(told.name).read_text() or '{"error": "it died"}')
    for module in reply.pop("modules", ()):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    return {"killed": False, "result": None, "seconds": time.monotonic() - begin, **reply}


def _do(do: Callable[[Path], Any], folder: Path, told: str) -> None:
    """In the process that was forked; never comes back."""
    import torch

    torch.set_num_threads(1)
    before = set(sys.modules)
    try:
        result = json.loads(json.dumps(do(folder)))
        reply = {"error": "", "result": result, "modules": sorted(set(sys.modules) - before)}
    except BaseException:
        reply = {"error": traceback.format_exc()}
    Path(told).write_text(json.dumps(reply))
    os._exit(0)


def main() -> None:
    """Kill the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--kills", type=int, default=50, help="kills of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return _serve()
    if unknown := sorted({*given.cases} - {*CASES}):
        parser.error(f"no case {', '.join(unknown)}: there are {', '.join(CASES)}")
    found = []
    for name in given.cases or CASES:
        found.append(killed(name, given.kills, given.seed))
        print(found[-1], flush=True)
    return sys.exit(any(one.wrong for one in found))


sys.path[:0] = [str(HERE), str(TESTS), str(ROOT)]
if __name__ == "__main__":
    main()
