"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from . import discovery as discovery
from . import judges as judges
from . import recovery as recovery
from .answers import Answer as Answer
from .discovery import Discovery as Discovery
from .discovery import HitRule as HitRule
from .evaluation import evaluate as evaluate
from .judging import Score as Score
from .recovery import Recovery as Recovery
from .report import Report as Report
from .report import plot_reports as plot_reports
from .scores import read_scores as read_scores
from .scores import write_scores as write_scores
from .statistics import Interval as Interval
from .statistics import bootstrap_interval as bootstrap_interval
from .statistics import paired_interval as paired_interval
from .tasks import InDistribution as InDistribution
from .tasks import Task as Task
from .tasks import task as task
from .validation import Validation as Validation
