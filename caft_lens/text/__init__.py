"""Text: documents and where they come from, chat templates and roles, tokens and batches, labels of spans.

documents           `Text`, `Texts`, `Message`, and `data`, which reads them from whatever people have
rows                rows of data sets: files, data frames, Arrow tables, `datasets`, lists
catalog             named data and models: organisms that ship, and other folders of the form
roles               which characters of a rendered chat came from which message
template_arguments  what a chat template is rendered with beside the messages
encoding            documents as tokens: roles, masks, padded batches
labels              labels of tokens from labels of characters
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.text.batching import Batch as Batch
    from caft_lens.text.batching import collate as collate
    from caft_lens.text.documents import Message as Message
    from caft_lens.text.documents import Text as Text
    from caft_lens.text.documents import Texts as Texts
    from caft_lens.text.documents import data as data
    from caft_lens.text.encoding import Encoded as Encoded
    from caft_lens.text.encoding import encoded as encoded
    from caft_lens.text.labels import label_words as label_words
    from caft_lens.text.labels import token_labels as token_labels

__getattr__, __dir__, __all__ = lazy.exports(
    __name__,
    {
        "Message": "caft_lens.text.documents",
        "Text": "caft_lens.text.documents",
        "Texts": "caft_lens.text.documents",
        "data": "caft_lens.text.documents",
        "label_words": "caft_lens.text.labels",
        "token_labels": "caft_lens.text.labels",
        "Batch": "caft_lens.text.batching",
        "Encoded": "caft_lens.text.encoding",
        "collate": "caft_lens.text.batching",
        "encoded": "caft_lens.text.encoding",
    },
)
