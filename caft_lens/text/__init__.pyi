"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .batching import Batch as Batch
from .batching import Scan as Scan
from .batching import collate as collate
from .documents import Message as Message
from .documents import Text as Text
from .documents import Texts as Texts
from .documents import data as data
from .encoding import Encoded as Encoded
from .encoding import encoded as encoded
from .labels import label_words as label_words
from .labels import token_labels as token_labels
