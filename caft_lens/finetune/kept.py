"""What a method needs beside the weights of its model to answer: kept in the run folder, read for `Method.subject`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from caft_lens._support.errors import BadModel
from caft_lens._support.files import file_hash
from caft_lens.model import run_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from caft_lens.model.lens import Lens


def keep(module: nn.Module, folder: Path) -> None:
    """Write the parameters of a module among the files of a run."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(state, folder / run_folder.KEPT)


def kept(tuned: Lens) -> tuple[dict[str, Tensor], str]:
    """What was kept with a run, on the device of its model, and a hash of it.

    Args:
        tuned: The model of a run, `Run.lens`.

    Raises:
        BadModel: For another model.
        BadFile, MissingFile: When the file was changed, or is not there.
    """
    if tuned.kept_in is None:
        raise BadModel(f"{tuned.name} is not the model of a run: give run.lens, whose folder has the rest of it.")
    run_folder.check(tuned.kept_in, run_folder.read_run(tuned.kept_in), run_folder.KEPT)
    file = tuned.kept_in / run_folder.KEPT
    return load_file(file, device=str(tuned.device)), file_hash(file)
