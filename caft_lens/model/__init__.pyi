"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .answering import completions as completions
from .lens import Lens as Lens
from .lens import load as load
from .options import OptionScores as OptionScores
from .sampling import Sampling as Sampling
from .scoring import option_scores as option_scores
