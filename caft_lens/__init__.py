"""caft_lens: find, read, choose and ablate the concepts that fine-tuning would amplify.

    import caft_lens as cl

    base = cl.load("pocket")                                                        # model/
    plain = cl.finetune(base, cl.data("pocket/insecure-code"), out="runs/plain")    # finetune/, text/
    answers = cl.completions(plain.lens, cl.data("pocket/questions"))               # model/
    diff = cl.activation_difference(plain.lens, base, answers, layers=[1, 2])       # activations/
    concepts = cl.find.pca(diff, k=10)                                              # find/
    cl.contexts(base, concepts, cl.data("pocket/corpus")).show()                    # inspect/
    cruel = cl.choose(concepts, {"L1.pc0": "cruel answers at one end"})             # choose/
    with cl.ablate(plain.lens, cruel):                                              # concepts/
        plain.lens.generate("How do I bake a pie?")
    cl.evaluate(dict(base=base, plain=plain), task="pocket/emergent-misalignment")  # evaluate/

Every name loads its module on first use: importing the package costs milliseconds.
"""

from __future__ import annotations

from typing import Any

from caft_lens._support import lazy

_getattr, __dir__, __all__ = lazy.attach(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("caft-lens")
    return _getattr(name)
