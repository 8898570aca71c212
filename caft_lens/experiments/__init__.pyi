"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .comparisons import Comparison as Comparison
from .comparisons import pareto as pareto
from .contest import Contender as Contender
from .contest import Tuning as Tuning
from .contest import contest as contest
from .experiment import Arm as Arm
from .experiment import Execution as Execution
from .experiment import causal_effects as causal_effects
from .experiment import experiment as experiment
from .pilots import pilots as pilots
from .recipe import Recipe as Recipe
from .report import plot_compared as plot_compared
from .report import plot_front as plot_front
from .report import write_report as write_report
from .result import Result as Result
from .sweep import Sweep as Sweep
from .sweep import sweep as sweep
