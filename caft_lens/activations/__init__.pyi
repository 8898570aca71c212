"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .differences import activation_difference as activation_difference
from .differences import stream as stream
from .moments import Moments as Moments
from .store import Store as Store
from .top_windows import TopWindows as TopWindows
