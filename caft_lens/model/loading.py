"""Models, tokenizers and adapters from disk or the hub, with one clear error where they are not.

`find` says what a name stands for; `read_model`, `read_tokenizer` and `read_adapter` read it, from safetensors alone.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import textwrap
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument, BadFile, BadModel, MissingFile, nearest
from caft_lens._support.files import absent, missing, read_json
from caft_lens._support.redaction import redact
from caft_lens.model import run_folder
from caft_lens.model.packaged import PACKAGED, converted
from caft_lens.text import catalog

LARGE = 10**9  # bytes of weights from which loading is worth a progress bar
ADAPTER = "adapter_config.json"
BESIDE = (
    "adapter_*", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab.*",
    "merges.txt", "*.model",
)  # fmt: skip
"""The files of an adapter on the hub, with those of a tokenizer beside it."""
OWN_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")


@dataclass(frozen=True)
class Source:
    """What a name stands for.

    Attributes:
        folder: Folder or hub name of the weights: of a whole model, or of an adapter when `base` is given.
        base: The name of the model that the adapter goes on.
        base_fingerprint: What that model's fingerprint was when the adapter was trained, where known.
        ancestors: Fingerprints of the models that a whole model was tuned from.
    """

    folder: str | Path
    base: str | None = None
    base_fingerprint: str | None = None
    ancestors: tuple[str, ...] = ()


def find(name: str | Path) -> Source:
    """What a name stands for: an organism, a run folder, an adapter folder, a plain folder or a hub name.

    Raises:
        MissingFile: For a path that does not exist.
    """
    if (gguf := _gguf(name)) is not None:
        return Source(gguf)
    folder = Path(catalog.adapter_path(name))
    if run_folder.is_run(folder):
        return _run(folder)
    if (of := run_folder.run_of(folder)) is not None:
        return _run(of)
    if (folder / ADAPTER).is_file():
        organism = str(name).rpartition("/")[0]
        if folder != Path(name) or (organism and catalog.is_organism(organism)):
            return Source(folder, base=organism)
        return Source(folder, base=_base_of(folder))
    return Source(catalog.model_path(name))


def _base_of(folder: Path) -> str:
    """The base that an adapter names, wherever it is."""
    config = read_json(folder / ADAPTER)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise BadFile(
            f"{folder / ADAPTER} names no base: base_model_name_or_path is {base!r}. Load the model that the adapter "
            f'is for and give adapter="{folder}".'
        )
    return run_folder.locate(base, folder)


def _run(folder: Path) -> Source:
    run = run_folder.read_run(folder, whole=False)
    if run["method"] == "full":
        return Source(folder / "model", ancestors=tuple(run["lineage"]))
    if not run["base"]:
        raise BadModel(
            f"{folder} was tuned from a model in memory, which has no name: load that model and give "
            f'adapter="{folder}".'
        )
    base = run_folder.locate(run["base"], folder, run.get("base_from_here"))
    return Source(folder / "adapter", base=base, base_fingerprint=run["base_fingerprint"])


def _gguf(name: str | Path) -> Path | None:
    """The GGUF file that a name stands for: itself, the only one in a folder without other weights; of a packaged model
    the folder that it was converted into.
    """
    path = Path(name)
    if path.suffix.lower() == ".gguf":
        if path.is_file():
            return path
        raise missing(path)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if not files or any((path / other).exists() for other in ("config.json", ADAPTER, run_folder.RUN)):
            return None
        if len(files) > 1:
            raise BadModel(f"{path} holds {len(files)} GGUF files: give one of them, such as {files[0].as_posix()!r}.")
        return files[0]
    if str(name) not in PACKAGED:
        return None
    with _no_bar(True):
        return converted(str(name), _from_gguf)


def _from_gguf(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, in full precision."""
    return _read_gguf(file, torch.float32, torch.device("cpu"), None), read_tokenizer(file)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """`"bfloat16"`, `"bf16"` or `torch.bfloat16` to the latter."""
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, short.get(dtype, dtype), None)
    if not isinstance(found, torch.dtype):
        raise BadArgument(f'Unknown dtype "{dtype}".{nearest(dtype, ["float32", "bfloat16", "float16"])}')
    return found


def best_device() -> torch.device:
    """CUDA (of processes that were launched together, each its own), then MPS, then CPU."""
    if torch.cuda.is_available():
        own = os.environ.get("LOCAL_RANK", "")
        return torch.device("cuda", int(own) % torch.cuda.device_count()) if own else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def read_model(
    folder: str | Path,
    *,
    asked: str | Path,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    device_map: Any,
    trust_remote_code: bool,
) -> Any:
    """A transformers causal language model in eval mode, from a folder or the hub.

    Args:
        folder: Where it is.
        asked: What the user typed, for errors.
        device, dtype, device_map, trust_remote_code: As for `load`.
    """
    if device is not None and device_map is not None:
        raise BadArgument("Give device= or device_map=, not both.")
    run_folder.check_weights(folder)
    place = torch.device(device) if device is not None else best_device()
    given = None if dtype is None else as_dtype(dtype)
    if str(folder).lower().endswith(".gguf"):
        model = _read_gguf(Path(folder), given, place, device_map)
    else:
        number: Any = given or ("auto" if place.type == "cuda" else torch.float32)
        model = _read_safetensors(_source(folder, asked), asked, number, device_map, trust_remote_code)
    return (model if device_map is not None else model.to(place)).eval()


def _read_safetensors(
    source: str | Path, asked: str | Path, number: Any, device_map: Any, trust_remote_code: bool
) -> Any:
    weights = source.glob("*.safetensors") if isinstance(source, Path) else []
    try:
        # Without transformers' own bar (a widget, in notebooks) where loading takes a moment.
        with _no_bar(isinstance(source, Path) and sum(file.stat().st_size for file in weights) < LARGE):
            return _auto_class(source, trust_remote_code).from_pretrained(
                source, dtype=number, device_map=device_map, trust_remote_code=trust_remote_code, use_safetensors=True
            )
    except OSError as error:
        if "safetensors" in str(error):
            raise MissingFile(
                f"{asked} holds no safetensors weights, and nothing else is read: convert it first. ({error})"
            ) from error
        here = f" There is no folder of that name in {Path.cwd()}, so the hub was asked for it."
        hub = "" if isinstance(source, Path) else here
        raise MissingFile(f'Cannot load "{asked}": {redact(str(error))}{hub}') from error


def _read_gguf(file: Path, dtype: torch.dtype | None, place: torch.device, device_map: Any) -> Any:
    """A model from a GGUF file, its weights as plain numbers: it is tuned, saved and merged like any other."""
    from transformers import AutoModelForCausalLM
    from transformers import modeling_gguf_pytorch_utils as reader

    if importlib.util.find_spec("gguf") is None:
        raise BadModel(f"{file} is a GGUF file, which the package gguf reads: pip install gguf.")
    # Its numbers are of a few bits each; what they stand for is kept in full on a CPU, in half on an accelerator.
    number = dtype or (torch.float32 if place.type != "cuda" else torch.bfloat16)
    quiet, bar = file.stat().st_size < LARGE, reader.tqdm
    reader.tqdm = partial(bar, disable=quiet)  # type: ignore[assignment]
    try:
        with _no_bar(quiet):
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, dtype=number, device_map=device_map
            )
    except Exception as error:  # of a damaged file any, down to struct.error
        reason = textwrap.shorten(str(error), 300, placeholder=" …")
        raise BadModel(f"Cannot read {file}: {reason}") from error
    finally:
        reader.tqdm = bar
    # Dequantised it is no quantised model any more, but still says so, and would refuse to be saved.
    for leftover in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(leftover, None)
    del model.config.quantization_config
    return model


def _auto_class(source: str | Path, trust_remote_code: bool) -> Any:
    """The class by which transformers reads a model: one for text, else one for images and text."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kind = type(AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code))
    known = AutoModelForCausalLM._model_mapping.keys()
    both = kind not in known and kind in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if both else AutoModelForCausalLM


def read_tokenizer(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside a model.

    A folder that names no tokenizer class of its own is read as it is: `AutoTokenizer` would put the class of the
    model's architecture in its place, with other ids.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if str(folder).lower().endswith(".gguf"):
        file = Path(folder)
        return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    config = Path(folder) / "tokenizer_config.json"
    if config.is_file() and read_json(config).get("tokenizer_class") in OWN_TOKENIZERS:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    try:
        return AutoTokenizer.from_pretrained(_source(folder, folder), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise BadModel(f"No tokenizer beside the model in {folder} ({error}): give tokenizer=.") from error


def own_tokenizer(adapter: str | Path, reading: str | None = None) -> Any:
    """The tokenizer that lies beside an adapter, and that it was trained with; `None` where there is none.

    Nor is one needed for a run that was tuned on a base that reads alike (`reading`).
    """
    folder = _adapter_folder(adapter)
    if not (folder / "tokenizer_config.json").is_file():
        return None
    of = run_folder.run_of(folder)
    if of is not None:
        if reading is not None and run_folder.read_run(of, whole=False).get("config", {}).get("reading") == reading:
            return None
        run_folder.check_weights(folder)
    return read_tokenizer(folder)


def read_adapter(model: Any, adapter: str | Path, name: str, trainable: bool) -> Any:
    """The model with a PEFT adapter from disk or the hub on it.

    Raises:
        BadModel: When the adapter does not fit the model, or is not safetensors.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    folder = _adapter_folder(adapter)
    run_folder.check_weights(folder)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise BadModel(f"{folder} holds no adapter_model.safetensors: only safetensors are read.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*missing adapter keys")
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            refuse_virtual_tokens(PeftConfig.from_pretrained(str(folder)), str(adapter))
            tuned = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except BadModel:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" …")
        raise BadModel(f"The adapter {adapter} does not fit {name}: {reason}") from error
    # PEFT leaves weights that are missing at their start, those without a place out, and says so of few kinds of
    # adapters. What it would save of the model that it made is what it should have found.
    with safe_open(weights, "pt") as file:
        given = set(file.keys())
    # Told to save embeddings "auto", PEFT would ask the hub for the base's configuration.
    wanted = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    absent, unplaced = wanted - given, given - wanted
    if unplaced:  # a base's embeddings may lie beside an adapter of them
        unplaced -= set(get_peft_model_state_dict(tuned, save_embedding_layers=True))
    if absent or unplaced:
        some = ", ".join(sorted(absent | unplaced)[:2])
        raise BadModel(
            f"The adapter {adapter} does not fit {name}: {len(absent)} of its weights are missing and {len(unplaced)} "
            f"have no place there ({some}, …)."
        )
    return tuned


def refuse_virtual_tokens(config: Any, name: str) -> None:
    """Refuse an adapter that puts tokens of its own before every text, as prefix, prompt and P-tuning do: activations,
    roles and positions are told by the token of the text.
    """
    if getattr(config, "is_prompt_learning", False):
        kind = str(getattr(config.peft_type, "value", config.peft_type)).replace("_", " ").lower()
        raise BadModel(
            f"{name} is {kind}: it puts {getattr(config, 'num_virtual_tokens', 'some')} virtual tokens before every "
            f"text, which have no place among the tokens that hooks, roles and positions are told by. Such adapters "
            f"are not supported; LoRA and every other kind that changes weights are."
        )


def _adapter_folder(adapter: str | Path) -> Path:
    """The local folder of an adapter, downloaded when it is on the hub."""
    from huggingface_hub import snapshot_download

    folder = Path(catalog.adapter_path(adapter))
    if folder.is_dir():
        return folder / "adapter" if run_folder.is_run(folder) else folder
    source = _source(adapter, adapter)
    if isinstance(source, Path):
        return source
    try:
        return Path(snapshot_download(source, allow_patterns=list(BESIDE)))
    except (OSError, ValueError) as error:
        raise MissingFile(f'Cannot load the adapter "{adapter}": {error}') from error


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
OWN_FOLDERS = ("runs", "data", "models", "checkpoints", "outputs", "output", "results")
"""What people and this library call folders, and nobody's name on the hub."""


def _downloaded(name: str) -> Path | None:
    """What was downloaded from the hub under a name."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None


def _missing(text: str, asked: str | Path) -> MissingFile:
    """The error of a folder that is not there, with those that are beside it."""
    path = Path(text)
    parent = catalog.organism_path(path.parent) if catalog.is_organism(path.parent) else path.parent
    beside = sorted(item.name for item in parent.iterdir() if item.is_dir()) if parent.is_dir() else []
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    hub = ""
    if HUB_NAME.fullmatch(text) and "/" in text:
        hub = (
            f" The hub was not asked for it, since it reads like a path; a model of that name comes by `hf "
            f"download {text}`."
        )
    return MissingFile(f"There is no folder {asked}{where}.{nearest(path.name, beside) if beside else ''}{hub}")


def _source(folder: str | Path, asked: str | Path) -> str | Path:
    """A local folder wherever possible: of a hub name what has been downloaded, when the hub cannot be asked.

    transformers would ask the hub all the same (for an adapter beside the model), and retry for half a minute.

    Raises:
        MissingFile: When there is no such folder, or neither the hub nor a download.
    """
    from huggingface_hub import constants

    path = Path(folder)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise absent(path, "config.json", "holds no model")
        return path.absolute()  # the model goes on to know where it came from
    text = str(folder)
    only_a_path = not HUB_NAME.fullmatch(text) or ("/" in text and text.split("/")[0] in OWN_FOLDERS)
    # A name of two parts may begin with a folder or an organism that is here.
    begins_here = len(path.parts) == 2 and (path.parent.is_dir() or catalog.is_organism(path.parent))
    if only_a_path or (begins_here and not _downloaded(text)):
        raise _missing(text, asked)
    if offline():
        why = "HF_HUB_OFFLINE is set"
    elif not hub_answers():
        why = "the Hugging Face hub does not answer"
    else:
        return text
    if (found := _downloaded(text)) is not None:
        return found
    here = _without_a_network()
    close = difflib.get_close_matches(text, [name for names in here.values() for name in names], n=1)
    meant = f' Did you mean "{close[0]}"?' if close else ""
    listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in here.items() if names)
    raise MissingFile(
        f'"{asked}" is not on this machine, and {why}. Give a local folder, or a name that needs no network '
        f"({listed or 'there is none yet'}).{meant} To keep a model of the hub here for later, run "
        f"`hf download {asked}` once where there is a network; its copy is read from {constants.HF_HUB_CACHE} then "
        f"(HF_HUB_CACHE names another place)."
    )


def _without_a_network() -> dict[str, list[str]]:
    """The names of models that can be loaded as things stand, by where they are."""
    from huggingface_hub import constants

    packaged = [name for name, one in PACKAGED.items() if importlib.util.find_spec(one.module) is not None]
    downloaded, folders = [], []
    with suppress(OSError):
        copies = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")
        downloaded = sorted({copy.parents[2].name.removeprefix("models--").replace("--", "/") for copy in copies})
    with suppress(OSError):
        folders = sorted(one.name for one in Path.cwd().iterdir() if (one / "config.json").is_file())
    return {
        "with caft_lens": [*catalog.shipped(), *packaged],
        "downloaded before": downloaded[:12],
        "folders here": folders[:12],
    }


@block
def _no_bar(quiet: bool) -> Iterator[None]:
    from transformers.utils import logging

    quiet = quiet and logging.is_progress_bar_enabled()
    if quiet:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if quiet:
            logging.enable_progress_bar()


def offline() -> bool:
    """Whether the hub is not to be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def hub_answers(seconds: float = 4.0) -> bool:
    """Whether the Hugging Face hub answers within some seconds, with whatever status."""
    from huggingface_hub import constants

    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=seconds).close()
            answered.set()
        except urllib.error.HTTPError:
            answered.set()  # an answer, if not a kind one
        except OSError:
            pass

    # In a thread of its own, since looking a name up obeys no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
