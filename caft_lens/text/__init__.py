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

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
