"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from . import methods as methods
from .caft_callback import CaftCallback as CaftCallback
from .finetuning import finetune as finetune
from .run import Run as Run
from .settings import LoraSettings as LoraSettings
from .settings import TrainSettings as TrainSettings
