"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .criteria import Criterion as Criterion
from .ready import alignment as alignment
from .ready import number as number
from .ready import rubric as rubric
from .ready import yes_no as yes_no
from .rubrics import Rubric as Rubric
