"""Text: documents and where they come from, chat templates and roles, tokens and batches, labels of spans.

documents           `Text`, `Texts`, `Message`, and `data`, which reads them from whatever people have
rows                rows of data sets: files, data frames, Arrow tables, `datasets`, lists
catalog             named data and models: organisms that ship, and other folders of the form
roles               names and numbers of the roles that tokens have
rendering           a chat as its template writes it, and which characters of that came from which message
contents            where the contents of messages stand in it
messages            messages as a template gets them: thoughts, tool calls
left_out            what a template leaves out of them
asked               what is asked before an answer, compared with what is trained there
template_arguments  what a chat template is rendered with beside the messages
encoding            documents as tokens, with roles and masks of what is learned
batching            padded batches, and how a pass reads text (`Scan`)
labels              labels of tokens from labels of characters
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.text.batching import Batch as Batch
    from caft_lens.text.batching import Scan as Scan
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
        "Scan": "caft_lens.text.batching",
        "Batch": "caft_lens.text.batching",
        "Encoded": "caft_lens.text.encoding",
        "collate": "caft_lens.text.batching",
        "encoded": "caft_lens.text.encoding",
    },
)
