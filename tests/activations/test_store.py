"""Activations on disk: complete, in order, lazily read, and the same bytes after any kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import TESTS
from test_activations import HOOK, some
from tiny_models import tiny_lens

from caft_lens.activations.store import Store, store
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT

SETTINGS = {"hooks": [0, 1], "shard_tokens": 60, "scan": Scan(batch_tokens=100)}

KILLS = [("pass", 1), ("pass", 7), ("file", 3), ("index", 4)]

# Another process forks one child per kill, which kills itself: in the middle of the n-th forward pass, with the n-th
# file half written, or before the n-th index.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import safetensors.torch, torch
import caft_lens.activations.store as module
from caft_lens.activations.differences import store
from test_activations import some
from test_store import KILLS, SETTINGS
from tiny_models import tiny_lens

def run(folder, how, count):
    seen = 0
    save_file, write_json = safetensors.torch.save_file, module.write_json

    def kill(here):
        nonlocal seen
        seen += how == here
        return how == here and seen == count

    def in_a_pass(acts, hook):
        if kill("pass"):
            os.kill(os.getpid(), signal.SIGKILL)

    def in_a_file(tensors, path, *rest):
        save_file(tensors, path, *rest)
        if kill("file"):
            os.truncate(path, 100)
            os.kill(os.getpid(), signal.SIGKILL)

    def before_the_index(path, value):
        if kill("index"):
            os.kill(os.getpid(), signal.SIGKILL)
        write_json(path, value)

    safetensors.torch.save_file, module.write_json = in_a_file, before_the_index
    lens = tiny_lens("llama")
    with lens.hooks([(0, in_a_pass)]):
        store(lens, some(), folder=folder, **SETTINGS)

torch.set_num_threads(1)
for how, count in KILLS:
    child = os.fork()
    if child == 0:
        run(Path(sys.argv[1]) / f"{how}-{count}", how, count)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums over another number of threads differ in their last bits; the killed processes run on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens("llama")


@pytest.fixture(scope="module")
def whole(lens, tmp_path_factory) -> Store:
    return store(lens, some(), folder=tmp_path_factory.mktemp("store") / "whole", **SETTINGS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A folder with one store for each of `KILLS`, as the kill left it."""
    folder, here = tmp_path_factory.mktemp("killed"), TESTS
    paths = os.pathsep.join([str(here), str(here / "activations"), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split() == [str(-signal.SIGKILL)] * len(KILLS)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills are of forked processes")
@pytest.mark.parametrize(("how", "count"), KILLS)
def test_a_store_killed_and_resumed_is_the_same_bytes_as_one_left_alone(lens, whole, killed, how, count):
    folder = killed / f"{how}-{count}"
    done = json.loads((folder / "index.json").read_text())["shards"]
    assert (len(done) == 0) == (count == 1)
    assert len(done) < len(whole._shards)
    with pytest.raises(ValueError, match=r"unfinished: \d+ of 30 texts"):
        Store.open(folder)
    resumed = store(lens, some(), folder=folder, **SETTINGS)
    assert len(resumed) == len(whole)
    assert contents(folder) == contents(whole.folder)


def test_the_store_holds_every_token_of_the_role_once_in_order_with_its_activations(lens, whole):
    texts = some()
    assert len(whole._shards) > 3
    start = 0
    (rows,) = whole.batches(batch_size=10**6)
    assert len(rows) == len(whole)
    for index, text in enumerate(texts):
        encoded = encode(lens.tokenizer, text)
        places = [p for p, role in enumerate(encoded.roles) if role == ASSISTANT]
        here = slice(start, start + len(places))
        assert rows.index[here].tolist() == [index] * len(places)
        assert rows.position[here].tolist() == places
        assert rows.token[here].tolist() == [encoded.input_ids[p] for p in places]
        _, cache = lens.run_with_cache(text, names_filter=[0, 1])
        for name in whole.hooks:
            torch.testing.assert_close(rows.acts[name][here], cache[name][0, places], atol=1e-5, rtol=1e-5)
        start += len(places)
    assert start == len(whole)


def test_batches_are_full_and_hold_every_token_once_in_any_order(whole):
    (rows,) = whole.batches(batch_size=10**6)
    for seed in (None, 0):
        batches = list(whole.batches(batch_size=37, seed=seed, hooks=HOOK))
        assert [len(batch) for batch in batches[:-1]] == [37] * (len(batches) - 1)
        assert all(list(batch.acts) == [HOOK] for batch in batches)
        keys = torch.cat([batch.index * 1000 + batch.position for batch in batches])
        assert sorted(keys.tolist()) == sorted((rows.index * 1000 + rows.position).tolist())
        acts = torch.cat([batch.acts[HOOK] for batch in batches])
        assert torch.equal(acts[keys.argsort()], rows.acts[HOOK])
        assert (keys.tolist() == sorted(keys.tolist())) == (seed is None)
    first, again, other = (next(whole.batches(37, seed=seed)).token for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_finished_store_is_not_written_again(lens, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.iterdir()}
    with lens.hooks([(0, lambda acts, hook: pytest.fail("it ran"))]):
        store(lens, some(), folder=whole.folder, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in whole.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"roles": ["user"]}, "roles: .*assistant.* there, .*user.* here"),
        ({"hooks": [0]}, "hooks: "),
        ({"texts": some(29)}, "data: .*texts: 30 there, 29 here"),
        ({"lens": 1}, "models: "),
        ({"dtype": torch.bfloat16}, "dtype: None there, bfloat16 here"),
        ({"scan": Scan(batch_tokens=90)}, "batch_tokens: 100 there, 90 here"),
    ],
)
def test_a_store_made_otherwise_is_not_resumed(lens, whole, change, said):
    before = contents(whole.folder)
    arguments = {"lens": lens, "texts": some(), "folder": whole.folder, **SETTINGS, **change}
    if change.get("lens"):
        arguments["lens"] = tiny_lens("llama", seed=1)
    with pytest.raises(ValueError, match=f"made otherwise.*{said}"):
        store(**arguments)
    assert contents(whole.folder) == before


def test_folders_that_hold_no_whole_store_are_refused(lens, whole, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.json is missing"):
        Store.open(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no activation store"):
        store(lens, some(), folder=tmp_path, **SETTINGS)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in contents(whole.folder).items():
        (copy / name).write_bytes(content)
    shard = copy / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is truncated"):
        Store.open(copy)
    shard.unlink()
    with pytest.raises(ValueError, match="missing"):
        store(lens, some(), folder=copy, **SETTINGS)


def test_differences_of_two_lenses_are_stored_in_the_dtype_asked_for(lens, tmp_path):
    other = tiny_lens("llama", seed=1)
    stored = store((lens, other), some(3), [1], tmp_path / "difference", dtype=torch.bfloat16)
    (rows,) = stored
    _, mine = lens.run_with_cache(some(3)[0], names_filter=[1])
    _, theirs = other.run_with_cache(some(3)[0], names_filter=[1])
    expected = (mine[HOOK] - theirs[HOOK])[0, int(rows.position[0])]
    assert rows.acts[HOOK].dtype == torch.bfloat16
    torch.testing.assert_close(rows.acts[HOOK][0].float(), expected, atol=0.05, rtol=0.01)


def test_a_store_without_a_token_is_refused(lens, tmp_path):
    with pytest.raises(ValueError, match="No token has the role system"):
        store(lens, some(3), [1], tmp_path / "none", roles=["system"])


def test_texts_at_the_end_without_a_token_are_no_obstacle(lens, tmp_path):
    texts = some(3) + some(2).prompts()
    stored = store(lens, texts, [1], tmp_path / "end", shard_tokens=1)
    assert len(stored) == sum(len(text.answer) for text in some(3))
    (moments,) = {len(batch.acts[HOOK]) for batch in stored.batches(10**6)}
    assert moments == len(stored)


def test_a_hook_that_is_not_stored_is_named(whole):
    with pytest.raises(KeyError, match="Did you mean"):
        next(whole.batches(hooks=["blocks.1.hook_resid_pots"]))


def test_what_a_killed_writer_left_aside_is_gone_when_the_store_is_whole(tmp_path):
    lens, texts = tiny_lens(), Texts([{"prompt": f"say {i}", "answer": "a b"} for i in range(4)])
    (tmp_path / "acts").mkdir()
    (tmp_path / "acts" / ".00000.safetensors.k1ll3d.safetensors").write_bytes(b"half")
    store(lens, texts, [0], tmp_path / "acts")
    assert not list((tmp_path / "acts").glob(".*"))
