"""Ctrl-C at any moment: what is left of hooks, roles, modes and random states afterwards.

`walk` raises KeyboardInterrupt at a given line that the library executes, so that every moment can be tried in turn; as
a script, `python tests/interrupts.py 300`, real signals come at random moments of generate, capture, ablate and
finetune.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.std import tqdm

import caft_lens

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

LIBRARY = str(Path(caft_lens.__file__).parent)


def state(lens: Lens) -> dict[str, Any]:
    """All that an interrupt could leave behind."""
    from caft_lens.model.turns import turn

    modules = [*lens.model.modules(), *lens.hook_points()]
    hooks = [
        (type(one).__name__, len(found))
        for one in modules
        for found in (one._forward_hooks, one._forward_pre_hooks, one._backward_hooks)
        if found
    ]
    free: list[bool] = []

    def try_turn() -> None:
        waits = turn(lens.hf)
        free.append(waits.acquire(timeout=1))
        if free[-1]:
            waits.release()

    other = threading.Thread(target=try_turn)
    other.start()
    other.join()
    return {
        "hooks": hooks,
        "listed": [name for name, site in lens.hook_dict.items() if site.fwd_hooks or site.bwd_hooks],
        "levels": list(lens._open),
        "roles": lens.current_roles,
        "told": len(lens._roles_of),
        "caching": lens.is_caching,
        "training": [module.training for module in lens.model.modules()],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().sum().item(),
        "free": free,
        "threads": [one.name for one in threading.enumerate() if one.name.startswith("generating")],
        "bars": [bar.desc for bar in getattr(tqdm, "_instances", ()) if not getattr(bar, "disable", True)],
        "adapter": [
            bool(module.disable_adapters) for module in lens.model.modules() if hasattr(module, "disable_adapters")
        ],
    }


def walk(
    do: Callable[[], Any], at: int, inside: Callable[[str], bool] = lambda file: file.startswith(LIBRARY)
) -> tuple[int, BaseException | None]:
    """Run something with an interrupt at the `at`-th line of the library.

    Returns:
        How many lines ran until then, or in all; and the interrupt, with the frames that its traceback keeps alive.
    """
    lines, known = 0, {}

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal lines
        file = frame.f_code.co_filename
        if file not in known:
            known[file] = inside(file)
        if not known[file]:
            return None
        # Signals come where a function begins and between its steps, never where a generator hands out a value.
        lines += event in ("call", "line")
        if lines == at and event in ("call", "line"):
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    except KeyboardInterrupt as interrupt:
        return lines, interrupt
    finally:
        sys.settrace(before)
    return lines, None


def main(number: int) -> None:
    """Real interrupts at random moments of each activity."""
    import random
    import tempfile
    import time

    sys.path.insert(0, str(Path(__file__).parent))
    from tiny_models import tiny_lens

    import caft_lens as cl
    from caft_lens.concepts.concept_set import Concept, ConceptSet

    os.environ["CAFT_LENS_PROGRESS"] = "0"
    torch.set_num_threads(1)
    lens = tiny_lens()
    direction = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(1))
    concepts = (
        ConceptSet([Concept("L0.x", "blocks.0.hook_resid_post", direction)]).for_model(lens).choose({"L0.x": "test"})
    )
    texts = cl.Texts([{"prompt": "a red house", "answer": "by the sea"}] * 8)

    def ablated() -> None:
        with cl.ablate(lens, concepts, roles=["assistant"]):
            lens.generate(["Hello", "Hi"], max_new_tokens=4, seed=0)

    def finetune() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cl.finetune(
                lens,
                texts,
                cl.TrainSettings(epochs=1, batch_size=4),
                ablate=concepts,
                out=folder + "/run",
                seed=0,
            )

    activities = {
        "generate": lambda: lens.generate(["Hello", "Hi"], max_new_tokens=4, seed=0),
        "capture": lambda: cl.contexts(lens, concepts, texts),
        "ablate": ablated,
        "finetune": finetune,
    }
    whole, times = state(lens), {}
    for name, do in activities.items():
        do()
        start = time.perf_counter()
        do()
        times[name] = time.perf_counter() - start
    assert state(lens) == whole
    came: dict[str, int] = dict.fromkeys(activities, 0)
    kept: Any = None
    for turn in range(number):
        name = list(activities)[turn % len(activities)]
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, times[name]))
        try:
            activities[name]()
            while signal.getitimer(signal.ITIMER_REAL)[0]:
                time.sleep(1e-4)
        except KeyboardInterrupt as interrupt:
            kept = interrupt  # as a notebook keeps the last traceback
            came[name] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        left = {key: value for key, value in state(lens).items() if value != whole[key]}
        assert not left, (name, left, kept)
    print(f"{number} interrupts, {came} of them during the activity: nothing was left behind.")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
