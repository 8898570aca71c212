"""A run is found again by all that it depends on, comes back whole or not at all, and is never lost to a kill or a
mistake.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killed_runs import NEW, OLD
from places import TESTS
from safetensors.torch import load_file
from test_finetune import QUICK, chats, same, two_concepts, weights
from tiny_models import CHAT_TEMPLATE, tiny_lens, tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from caft_lens._support.errors import (
    BadArgument,
    BadFile,
    BadType,
    Busy,
    CaftLensError,
    Diverged,
    MissingFile,
    NotTrained,
    Occupied,
)
from caft_lens._support.files import locked, read_json
from caft_lens.finetune import LoraSettings, Run, TrainSettings, finetune
from caft_lens.finetune import folder as place
from caft_lens.finetune.callbacks import recorded, watches
from caft_lens.finetune.methods import EarlyStopping
from caft_lens.model import run_folder
from caft_lens.model.generation import encode_prompts
from caft_lens.model.lens import load

OTHER_TEMPLATE = CHAT_TEMPLATE.replace("<|{{", "<|end|><|{{")
SMALL = QUICK.but(max_steps=2, lora=LoraSettings(r=2, alpha=4))


def other_reading():
    tokenizer = copy.deepcopy(tiny_tokenizer())  # one object for all tests
    tokenizer.chat_template = OTHER_TEMPLATE
    return load(tiny_model(), tokenizer=tokenizer, name_as="tiny-llama")


def asked(lens) -> str:
    return lens.tokenizer.decode(encode_prompts(lens, "Hi", None)[0].input_ids)


# -- identity ---------------------------------------------------------------------------------------------------------


def test_a_run_made_with_another_template_is_not_returned(tmp_path):
    run = finetune(tiny_lens(), chats(8), SMALL, out=tmp_path / "run")
    assert run.config["reading"] == tiny_lens().reading != other_reading().reading
    with pytest.raises(FileExistsError, match=r"tokenizer or its chat template \(reading\) is another"):
        finetune(other_reading(), chats(8), SMALL, out=tmp_path / "run")
    again = finetune(other_reading(), chats(8), SMALL.but(overwrite=True), out=tmp_path / "run")
    fresh = finetune(other_reading(), chats(8), SMALL, out=tmp_path / "fresh")
    assert again.history == fresh.history != run.history


def test_texts_are_encoded_anew_for_a_tokenizer_that_was_changed_in_place(tmp_path):
    lens = load(tiny_model(), tokenizer=copy.deepcopy(tiny_tokenizer()), name_as="tiny-llama")
    first = finetune(lens, chats(8), SMALL, out=tmp_path / "first")
    lens.tokenizer.chat_template = OTHER_TEMPLATE
    second = finetune(lens, chats(8), SMALL, out=tmp_path / "second")
    fresh = finetune(other_reading(), chats(8), SMALL, out=tmp_path / "fresh")
    assert second.history == fresh.history != first.history


def test_a_run_folder_of_before_is_found_again_and_says_nothing_of_what_it_does_not_know(tmp_path):
    lens, out = tiny_lens(), tmp_path / "run"
    finetune(lens, chats(8), SMALL.but(warmup_steps=1), out=out)
    record = json.loads((out / "run.json").read_text())
    for key in ("seal", "files", "adapted"):
        record.pop(key)
    for key in ("reading", "callbacks", "processes"):
        record["config"].pop(key)
    (out / "run.json").write_text(json.dumps(record))
    again = finetune(lens, chats(8), SMALL.but(warmup_steps=1), out=out)
    assert again.record == record
    # As many steps of warm-up as there were, said as a share of two steps.
    assert finetune(lens, chats(8), SMALL.but(warmup_steps=0.5), out=out).record == record
    assert again.lens.fingerprint != lens.fingerprint


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **others):
        control.should_training_stop |= state.global_step >= self.step


class Count(TrainerCallback):
    steps = 0

    def on_step_end(self, args, state, control, **others):
        self.steps = state.global_step


def test_a_run_that_a_callback_stopped_is_no_whole_run_and_comes_back_with_the_same_callback(tmp_path):
    lens, out, six = tiny_lens(), tmp_path / "run", SMALL.but(max_steps=6)
    run = finetune(lens, chats(), six.but(callbacks=[StopAt(2)]), out=out)
    assert run.record["stopped"] == {"step": 2, "of": 6}
    assert "stopped at step 2 of 6" in repr(run)
    for others in ([], [StopAt(3)], [StopAt(2), StopAt(2)]):
        with pytest.raises(FileExistsError, match="callbacks that can change training: StopAt there"):
            finetune(lens, chats(), six.but(callbacks=others), out=out)
    assert finetune(lens, chats(), six.but(callbacks=[StopAt(2), Count()]), out=out).history == run.history
    assert len(finetune(lens, chats(), six.but(overwrite=True), out=out).history) == 6


def test_a_callback_that_says_it_watches_and_stops_training_is_refused(tmp_path):
    liar = StopAt(2)
    liar.changes_training = False
    with pytest.raises(NotTrained, match="stopped at step 2 of 6"):
        finetune(tiny_lens(), chats(), SMALL.but(callbacks=[liar], max_steps=6), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_callback_watches_when_its_events_read_nothing_but_arguments_and_state():
    from transformers import PrinterCallback

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step == 3:
                os.kill(os.getpid(), 9)
            return control

    class Steers(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            state.max_steps = 2

    class Clips(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **others):
            for parameter in model.parameters():
                parameter.grad.zero_()

    class Slows(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            others["optimizer"].param_groups[0]["lr"] = 0.0

    class Holds(TrainerCallback):
        def __init__(self, lens):
            self.lens = lens

        def on_step_end(self, args, state, control, **others):
            next(self.lens.model.parameters()).data.zero_()

    class Passes(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            print(state)

    vandal = TrainerCallback()
    vandal.on_train_begin = lambda *_, model, **__: model.get_decoder().layers.pop(1) and None
    watcher = TrainerCallback()
    watcher.on_step_end = lambda args, state, control, **_: state.global_step and None
    assert all(map(watches, (Count(), Kill(), PrinterCallback(), watcher, TrainerCallback())))
    assert not any(map(watches, (StopAt(1), Steers(), Clips(), Slows(), Holds(tiny_lens()), Passes(), vandal)))


def test_a_callback_is_known_by_its_settings_and_code_or_by_its_own_fingerprint(tmp_path):
    def factory(step):
        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **others):
                control.should_training_stop |= state.global_step >= step

        return Stop()

    assert recorded([StopAt(2)]) == recorded([StopAt(2)]) != recorded([StopAt(3)])
    assert recorded([factory(1)]) == recorded([factory(1)]) != recorded([factory(2)])
    named = StopAt(2)
    named.fingerprint = "two"
    assert recorded([named])[0]["fingerprint"] == "two"
    odd = StopAt(2)
    odd.tensor = torch.zeros(1)
    finetune(tiny_lens(), chats(8), SMALL.but(callbacks=[odd]), out=tmp_path / "run")
    with pytest.raises(
        Occupied,
        match="StopAt may be another one, since its tensor cannot be compared: give it a `fingerprint`",
    ):
        finetune(tiny_lens(), chats(8), SMALL.but(callbacks=[odd]), out=tmp_path / "run")
    with pytest.raises(BadType, match="instances of transformers"):
        finetune(tiny_lens(), chats(8), SMALL.but(callbacks=[StopAt]), out=tmp_path / "other")  # type: ignore[list-item]


def test_a_key_that_a_callback_holds_or_an_argument_is_given_reaches_no_file_of_the_run(tmp_path):
    key = "sk-" + "a1B2" * 6
    steps = {"changes_training": True, "api_key": "short", "address": f"https://host/?key={key}", "step": 2}
    (of_one,), (of_another,) = (recorded([vars_of(StopAt(2), {**steps, "api_key": one})]) for one in ("short", "other"))
    assert of_one == of_another  # a key changes nothing that is trained
    assert of_one["settings"]["address"] == "https://host/?key=***"
    notifies = vars_of(StopAt(2), {"api_key": key, "note": f"by {key}"})
    run = finetune(tiny_lens(), chats(8), SMALL.but(callbacks=[notifies]), out=tmp_path / "run")
    assert not [path for path in run.folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    with pytest.raises(BadArgument, match=r'\["run_name"\] holds a key or password') as refused:
        SMALL.but(training_arguments={"run_name": f"by {key}"})
    assert key not in str(refused.value)


def vars_of(callback, values):
    vars(callback).update(values)
    return callback


# -- what travels with a run -------------------------------------------------------------------------------------------


def saved_base(folder: Path, template: str | None = CHAT_TEMPLATE) -> Path:
    tokenizer = copy.deepcopy(tiny_tokenizer())  # one object for all tests
    tokenizer.chat_template = template
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_run_asks_with_the_template_that_it_was_tuned_with_however_it_is_loaded(tmp_path, tune):
    base = load(saved_base(tmp_path / "base", template=None))
    base.tokenizer.chat_template = OTHER_TEMPLATE
    run = finetune(base, chats(8), SMALL.but(tune=tune), out=tmp_path / "run")
    right = tiny_tokenizer().decode(
        tiny_tokenizer().apply_chat_template(
            [{"role": "user", "content": "Hi"}], add_generation_prompt=True, chat_template=OTHER_TEMPLATE
        )["input_ids"]
    )
    part = run.folder / run_folder.WEIGHTS[tune]
    told = [run.lens, Run.load(run.folder).lens, load(run.folder), load(part)]
    told.append(Run.load(run.folder, base=load(tmp_path / "base")).lens)
    if tune == "lora":
        told += [load(tmp_path / "base", adapter=run.folder), load(tmp_path / "base").adapt(part)]
    assert [asked(lens) for lens in told] == [right] * len(told)
    assert {lens.reading for lens in told} == {base.reading}


def test_the_tokenizer_beside_an_adapter_comes_first_and_one_that_is_given_before_it(tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "adapter"
    peft = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    peft.peft_config["default"].base_model_name_or_path = str(saved_base(tmp_path / "base"))
    peft.save_pretrained(folder)
    assert asked(load(folder)) == asked(tiny_lens())
    other_reading().tokenizer.save_pretrained(folder)
    for lens in (load(folder), load(tmp_path / "base", adapter=folder), tiny_lens().adapt(folder)):
        assert asked(lens) == asked(other_reading()) != asked(tiny_lens())
    assert asked(load(folder, tokenizer=tiny_tokenizer())) == asked(tiny_lens())
    assert asked(load(tmp_path / "base", adapter=folder, tokenizer=tiny_tokenizer())) == asked(tiny_lens())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).unlink()  # a base without one will do
    assert asked(load(folder)) == asked(other_reading())


def test_a_run_finds_its_base_from_any_folder_and_where_both_were_moved_together(tmp_path, monkeypatch):
    (tmp_path / "here/pf").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    saved_base(Path("pf/base"))
    base = load("pf/base")
    run = finetune(base, chats(8), SMALL, out="pf/run", ablate=two_concepts(base))
    assert "'pf/run'" in repr(run)
    unread = Run.load("pf/run")
    monkeypatch.chdir(tmp_path / "there")
    expected = run.lens.fingerprint
    assert unread.lens.fingerprint == load(tmp_path / "here/pf/run").fingerprint == expected
    assert unread.concepts is not None
    shutil.move(tmp_path / "here/pf", tmp_path / "moved")
    assert load(tmp_path / "moved/run").fingerprint == load(tmp_path / "moved/run/adapter").fingerprint == expected
    shutil.rmtree(tmp_path / "moved/base")
    with pytest.raises(MissingFile, match=r"which is not there any more.*adapter=") as error:
        load(tmp_path / "moved/run")
    assert "download" not in str(error.value)


def test_an_older_run_with_a_relative_base_finds_it_beside_its_folder(tmp_path, monkeypatch):
    saved_base(tmp_path / "pf/base")
    run = finetune(load(tmp_path / "pf/base"), chats(8), SMALL, out=tmp_path / "pf/run")
    record = json.loads((run.folder / "run.json").read_text())
    for key in ("seal", "base_from_here", "files"):
        record.pop(key)
    (run.folder / "run.json").write_text(json.dumps({**record, "base": "pf/base"}))
    monkeypatch.chdir("/")
    assert load(run.folder).fingerprint == run.lens.fingerprint


# -- nothing half-read -------------------------------------------------------------------------------------------------


def test_one_flipped_bit_in_the_weights_is_told(tmp_path):
    for tune, name in (("lora", "adapter/adapter_model.safetensors"), ("full", "model/model.safetensors")):
        run = finetune(tiny_lens(), chats(8), SMALL.but(tune=tune), out=tmp_path / tune)
        path = run.folder / name
        broken = bytearray(path.read_bytes())
        broken[-5] ^= 1
        path.write_bytes(broken)
        for reading in (
            lambda r=run: Run.load(r.folder, base=tiny_lens()).lens,
            lambda r=run, n=name: load_part(r.folder / n),
        ):
            with pytest.raises(BadFile, match=f"{path.name}.*SHA-256"):
                reading()


def load_part(weights: Path):
    return tiny_lens().adapt(weights.parent) if weights.parent.name == "adapter" else load(weights.parent)


def test_a_run_whose_concepts_were_exchanged_is_refused(tmp_path):
    run = finetune(tiny_lens(), chats(8), SMALL, out=tmp_path / "run", ablate=two_concepts(tiny_lens()))
    two_concepts(tiny_lens())[:1].save(run.folder / "concepts")
    with pytest.raises(BadFile, match="concepts"):
        Run.load(run.folder).concepts  # noqa: B018


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A finished run with concepts, and beside it what an interrupted and a diverged one leave."""
    folder = tmp_path_factory.mktemp("mutated") / "run"
    lens = tiny_lens()
    finetune(lens, chats(8), SMALL, out=folder, ablate=two_concepts(lens))
    record = json.loads((folder / "run.json").read_text())
    place.write_json(folder / "unfinished.json", {**record["config"], "seed": 7})
    place.write_json(folder / "failed.json", {"config": {**record["config"], "seed": 8}, "error": "The loss is nan."})
    run = Run.load(folder, base=lens)
    return folder, run, run.lens.fingerprint


MUTATED = (
    "run.json",
    "history.json",
    "unfinished.json",
    "failed.json",
    "adapter/adapter_config.json",
    "adapter/tokenizer_config.json",
)
SPICE = (
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b'"a"',
    b"-1",
    b"1e999",
    b"true",
    b"\xff",
    b"\x00",
    b'"../../x"',
    b"[" * 200,
    b'{"a":1,"a":2}',
)


COPIES = int(os.environ.get("CAFT_LENS_DAMAGED", "300"))
TOLD: Counter[str] = Counter()
"""What came of the mutated copies; a foreign exception is a failed test."""


@pytest.fixture(scope="module", autouse=True)
def told():
    yield
    print(dict(TOLD))


@settings(max_examples=COPIES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(
    st.sampled_from(MUTATED),
    st.integers(0, 2**32),
    st.sampled_from(["flip", "cut", "drop", "insert", "value"]),
)
def test_a_run_folder_with_a_mutated_file_is_read_with_equal_content_or_refused_by_name(written, name, seed, kind):
    folder, before, fingerprint = written
    path, draw = folder / name, random.Random(seed)
    whole = path.read_bytes()
    original = json.loads(whole)
    begin = time.perf_counter()
    try:
        path.write_bytes(mutated(whole, kind, draw))
        if name == "unfinished.json":
            read = run_folder.read_config(path)
            assert read == {key: value for key, value in original.items() if key != "seal"}
        elif name == "failed.json":
            read = run_folder.read_failed(path)
            assert read == {key: value for key, value in original.items() if key != "seal"}
        else:
            run = Run.load(folder, base=before._base)
            if name.startswith("adapter"):
                assert run.lens.fingerprint == fingerprint
            assert [run.record, run.history] == [before.record, before.history]
        TOLD["equal content"] += 1
    except CaftLensError as error:
        refused = str(error)
        assert path.name in refused
        TOLD["refused by name"] += 1
    finally:
        TOLD["over 5 s"] += time.perf_counter() - begin > 5
        path.write_bytes(whole)


def mutated(whole: bytes, kind: str, draw: random.Random) -> bytes:
    place = draw.randrange(len(whole))
    if kind == "flip":
        return whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
    if kind == "cut":
        return whole[:place]
    if kind == "drop":
        return whole[:place] + whole[place + draw.randrange(1, 40) :]
    if kind == "insert":
        return whole[:place] + draw.choice(SPICE) + whole[place:]
    value = json.loads(whole)
    parent, key = value, draw.choice(list(value) if isinstance(value, dict) else list(range(len(value))))
    while isinstance(parent[key], dict | list) and parent[key] and draw.random() < 0.7:
        parent = parent[key]
        key = draw.choice(list(parent) if isinstance(parent, dict) else list(range(len(parent))))
    text = draw.choice([one for one in SPICE if one not in (b"\xff", b"\x00", b"NaN")])
    parent[key] = "\0spice"
    return json.dumps(value).encode().replace(b'"\\u0000spice"', text)


def test_a_record_of_the_wrong_kind_is_refused_though_nothing_is_sealed(tmp_path):
    run = finetune(tiny_lens(), chats(8), SMALL, out=tmp_path / "run")
    record = json.loads((run.folder / "run.json").read_text())
    record.pop("seal")
    for where, value, field in (
        (("config", "seed"), "0", "config.seed"),
        (("config", "lora", "r"), 0, "config.lora.r"),
        (("data", "tokens"), 1.5, "data.tokens"),
        (("files", "../x"), "0", "outside"),
        (("more",), 1, "more"),
    ):
        broken = json.loads(json.dumps(record))
        inner = broken
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = value
        (run.folder / "run.json").write_text(json.dumps(broken))
        if field == "outside":
            broken["files"] = {"adapter/../../x": "0"}
            (run.folder / "run.json").write_text(json.dumps(broken))
            with pytest.raises(BadFile, match="lies outside"):
                Run.load(run.folder, base=tiny_lens()).lens  # noqa: B018
        else:
            with pytest.raises(BadFile, match=f"run.json.*{field}"):
                Run.load(run.folder)


# -- locked, whole, resumed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What `killed_runs.py` says of its kills and of its races."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "CAFT_LENS_PROGRESS": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(TESTS / "killed_runs.py"), str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_point_leaves_the_old_run_or_the_new_one_and_the_rest_is_trained_to_the_same_bits(
    killed,
):
    old, *kills, end, whole = killed[0]
    assert {name: status for name, status, *_ in kills} == dict.fromkeys([name for name, *_ in kills], -9)
    left = {name: run for name, _, run, *_ in kills}
    new = [NEW, whole[2][1]]
    assert left.pop("all there, nothing in its place") == new
    assert left.pop("half in its place") == new
    assert list(left.values()) == [[OLD, old[2][1]]] * 4
    steps = {name: found for name, _, _, found in kills}
    assert steps["before the first checkpoint"] == []
    assert steps["between two checkpoints"] == ["checkpoint-3"]
    assert "checkpoint-12" in steps["after the last checkpoint"]
    assert end[2:] == [new, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_two_fine_tunings_at_once_into_one_folder_one_trains_and_the_other_gets_its_run_or_is_refused(
    killed,
):
    for number, (codes, _, same_weights, same_history) in enumerate(killed[1]):
        assert codes == ([0, 0] if number == 0 else [0, 1])
        assert same_weights
        assert same_history


def test_what_trains_another_run_is_not_waited_for(tmp_path, monkeypatch):
    lens, out = tiny_lens(), tmp_path / "run"
    run = finetune(lens, chats(8), SMALL, out=out)
    with locked(out):
        place.write_json(out / "unfinished.json", {**run.config, "seed": 3})
        with pytest.raises(Occupied, match="seed is 3 there, 0 asked"):
            finetune(lens, chats(8), SMALL, out=out)
        with pytest.raises(Busy, match="being trained into"):
            finetune(lens, chats(8), SMALL.but(overwrite=True), out=out)
    assert finetune(lens, chats(8), SMALL, out=out).record == run.record


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("nothing there fits it", {"lora": LoraSettings(targets=("q_porj",))}),
        ("seed=-1: expected a whole number of at least 0", {"seed": -1}),
        (r"training_arguments \(optim='adamq'\)", {"training_arguments": {"optim": "adamq"}}),
        ("learning_rate=0: expected a number above 0", {"learning_rate": 0}),
        (r"learning_rate=\"1e-4\" is text.*write learning_rate=1e-4", {"learning_rate": "1e-4"}),
        ("learning_rate=nan: expected a number above 0, and a finite one", {"learning_rate": math.nan}),
        ("batch_size=1.5: expected a whole number", {"batch_size": 1.5}),
        ("max_steps=0: expected a whole number of at least 1", {"max_steps": 0}),
        ("epochs=True: expected a number above 0, not bool", {"epochs": True}),
        ("warmup_steps=-0.1: expected a number of at least 0", {"warmup_steps": -0.1}),
        ("weight_decay=-1: expected a number of at least 0", {"weight_decay": -1}),
        ("save_steps=0", {"save_steps": 0}),
        ("no key is written", {"training_arguments": {"hub_token": "hf_x"}}),
        ("takes LoraSettings", {"lora": 2}),
        ("JSON values", {"training_arguments": {"lr_scheduler_kwargs": {"a": {1, 2}}}}),
    ],
)  # fmt: skip
def test_a_mistake_in_an_argument_costs_no_run(tmp_path_factory, words, wrong, kept):
    folder, lens, fingerprint = kept
    seed = {name: value for name, value in wrong.items() if name == "seed"}
    others = {name: value for name, value in wrong.items() if name != "seed"}
    with pytest.raises((BadArgument, BadType), match=words):
        finetune(lens, chats(8), SMALL.but(overwrite=True, **others), out=folder, **seed)
    assert Run.load(folder, base=lens).lens.fingerprint == fingerprint
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "history.json", "run.json"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder, lens = tmp_path_factory.mktemp("kept") / "run", tiny_lens()
    return folder, lens, finetune(lens, chats(8), SMALL, out=folder).lens.fingerprint


def test_settings_of_an_adapter_out_of_range_are_refused_where_they_are_typed():
    for words, wrong in (
        ("r=0: expected a whole number of at least 1", {"r": 0}),
        ("alpha=0: expected a number above 0", {"alpha": 0}),
        ("dropout=1.0: expected a number of at least 0 and below 1", {"dropout": 1.0}),
        ("r=2.0: expected a whole number", {"r": 2.0}),
        ("is empty", {"targets": ()}),
        ("takes names of modules", {"targets": 3}),
        ("nothing to train", {"targets": ""}),
        ('no "ranks"', {"ranks": 3}),
        ("rslora is True", {"rslora": 1}),
    ):
        with pytest.raises((BadArgument, BadType), match=words):
            LoraSettings(**wrong)


def interrupted(out: Path, at: int):
    class Interrupt(TrainerCallback):
        changes_training = False

        def on_step_end(self, args, state, control, **others):
            if state.global_step == at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(
            tiny_lens(),
            chats(),
            SMALL.but(save_steps=2, callbacks=[Interrupt()], max_steps=6),
            out=out,
        )
    return out / "checkpoints"


def resumed(out: Path):
    counted: list[int] = []

    class Steps(TrainerCallback):
        changes_training = False

        def on_step_end(self, args, state, control, **others):
            counted.append(state.global_step)

    run = finetune(tiny_lens(), chats(), SMALL.but(save_steps=2, callbacks=[Steps()], max_steps=6), out=out)
    return run, counted


def test_of_a_broken_checkpoint_the_whole_one_before_it_is_taken(tmp_path):
    whole = finetune(tiny_lens(), chats(), SMALL.but(max_steps=6), out=tmp_path / "whole")
    breaks = {
        "optimizer gone": lambda path: (path / "optimizer.pt").unlink(),
        "random numbers gone": lambda path: (path / "rng_state.pth").unlink(),
        "weights flipped": lambda path: flip(path / "adapter_model.safetensors"),
        "half a seal": lambda path: (path / "whole").write_text('{"of":'),
    }
    for name, break_ in breaks.items():
        checkpoints = interrupted(tmp_path / name, at=5)
        assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-2", "checkpoint-4"}
        break_(checkpoints / "checkpoint-4")
        run, steps = resumed(tmp_path / name)
        assert steps == [3, 4, 5, 6], name
        assert same(weights(run), weights(whole)), name
        assert run.history == whole.history
    checkpoints = interrupted(tmp_path / "all", at=5)
    for path in checkpoints.iterdir():
        flip(path / "optimizer.pt")
    with pytest.warns(UserWarning, match="begins anew"):
        run, steps = resumed(tmp_path / "all")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert same(weights(run), weights(whole))


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize("method", [None, EarlyStopping(share=0.6)])
def test_a_run_that_was_stopped_after_its_last_checkpoint_takes_no_step_more(tmp_path, monkeypatch, method):
    constant = SMALL.but(max_steps=6, save_steps=2, training_arguments={"lr_scheduler_type": "constant"})
    whole = finetune(tiny_lens(), chats(), constant, out=tmp_path / "whole", method=method)
    with monkeypatch.context() as patch:
        patch.setattr(place, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            finetune(tiny_lens(), chats(), constant, out=tmp_path / "run", method=method)
    last = 6 if method is None else 4
    assert (tmp_path / f"run/checkpoints/checkpoint-{last}/whole").is_file()
    run = finetune(tiny_lens(), chats(), constant, out=tmp_path / "run", method=method)
    assert same(weights(run), weights(whole))
    assert run.history == whole.history


def test_checkpoints_of_another_run_are_never_gone_on_with(tmp_path):
    checkpoints = interrupted(tmp_path / "run", at=5)
    other = SMALL.but(max_steps=6, save_steps=2)
    with pytest.raises(Occupied, match="seed is 0 there, 1 asked"):
        finetune(tiny_lens(), chats(), other, out=tmp_path / "run", seed=1)
    # As if killed right after the new configuration was written, before the old checkpoints were cleared.
    config = read_json(tmp_path / "run/unfinished.json")
    place.write_json(tmp_path / "run/unfinished.json", {**config, "seed": 1})
    assert checkpoints.is_dir()
    run = finetune(tiny_lens(), chats(), other, out=tmp_path / "run", seed=1)
    assert same(weights(run), weights(finetune(tiny_lens(), chats(), other, out=tmp_path / "fresh", seed=1)))


def test_a_broken_file_of_an_earlier_attempt_is_named_and_replaced_when_that_is_asked_for(tmp_path):
    for name in ("unfinished.json", "failed.json", "run.json"):
        out = tmp_path / name
        interrupted(out, at=5)
        (out / name).write_text('{"half')
        with pytest.raises(BadFile, match=rf"{name}.*overwrite=True trains anew"):
            finetune(tiny_lens(), chats(), SMALL.but(max_steps=6), out=out)
        assert len(finetune(tiny_lens(), chats(), SMALL.but(overwrite=True, max_steps=6), out=out).history) == 6


def test_what_callbacks_write_beside_the_checkpoints_is_kept(tmp_path):
    class Writes(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            folder = Path(args.output_dir) / "runs"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{state.global_step}.txt").write_text("curve")

    lens, writing = tiny_lens(), SMALL.but(callbacks=[Writes()], save_steps=1)
    run = finetune(lens, chats(8), writing, out=tmp_path / "run")
    assert sorted(p.relative_to(run.folder).as_posix() for p in (run.folder / "logs").rglob("*.txt")) == [
        "logs/runs/1.txt",
        "logs/runs/2.txt",
    ]
    assert not (run.folder / "checkpoints").exists()
    finetune(lens, chats(8), writing.but(overwrite=True, max_steps=1), out=tmp_path / "run")
    assert (run.folder / "logs/runs/2.txt").read_text() == "curve"


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logging_steps", [1, 50])
def test_a_run_that_diverged_is_never_finished_however_seldom_its_loss_is_logged(tmp_path, logging_steps):
    wild = SMALL.but(max_steps=12, learning_rate=1e8, training_arguments={"logging_steps": logging_steps})
    with pytest.raises(Diverged, match=r"at step \d+: training has diverged"):
        finetune(tiny_lens(), chats(), wild.but(save_steps=3), out=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["failed.json"]
    with pytest.raises(Diverged, match="has diverged"):
        finetune(tiny_lens(), chats(), wild, out=tmp_path / "run")
    assert finetune(tiny_lens(), chats(), SMALL, out=tmp_path / "run").history


def test_weights_that_are_not_finite_after_the_last_step_stop_the_run(tmp_path):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **others):
            if state.global_step == state.max_steps:
                next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = math.inf

    with pytest.raises(Diverged, match="after step 2 weights are not finite"):
        finetune(tiny_lens(), chats(8), SMALL.but(callbacks=[Poison()]), out=tmp_path / "run")
    assert not (tmp_path / "run/run.json").exists()


def test_by_default_a_twentieth_of_all_steps_is_warm_up(tmp_path):
    rates = {}
    for steps in (20, 40):
        run = finetune(
            tiny_lens(),
            chats(8),
            TrainSettings(learning_rate=1e-3, batch_size=4, max_steps=steps, lora=LoraSettings(r=1, alpha=1)),
            out=tmp_path / str(steps),
        )
        rates[steps] = [entry["learning_rate"] for entry in run.history]
    assert rates[20].index(max(rates[20])) == 1
    assert rates[40].index(max(rates[40])) == 2
    assert load_file(run.folder / "adapter/adapter_model.safetensors")


# -- what it is called -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_model_of_a_run_is_called_the_same_whoever_gives_the_run_and_can_be_tuned_on(tmp_path, tune):
    base = load(saved_base(tmp_path / "base"), name_as="mine")
    run = finetune(base, chats(8), SMALL.but(tune=tune), out=tmp_path / "run")
    again, beside = Run.load(tmp_path / "run"), Run.load(tmp_path / "run", base=base)
    assert run.lens.name == again.lens.name == beside.lens.name == "mine + run"
    assert again.lens.kept_in == again.lens.fork().kept_in == tmp_path / "run"
    on = finetune(again.lens, chats(8), SMALL.but(tune="full"), out=tmp_path / "on")
    assert on.record["base"] == str(tmp_path / "run")
    assert Run.load(tmp_path / "on").lens.fingerprint == on.lens.fingerprint


def test_no_lock_is_left_beside_a_run(tmp_path):
    finetune(tiny_lens(), chats(8), SMALL, out=tmp_path / "run")
    Run.load(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
