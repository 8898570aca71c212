"""Explanations that are scored, not believed: what either end of a direction responds to, and how well words tell.

explanations.py  Explanation, Explanations: a sentence, what it rests on, the rule that predicts by it, its score
enrichment.py    explain: what is enriched in contexts against the corpus, by exact tests; no further model is needed
detection.py     halves, detection: how well an explanation tells active windows from others that it has not seen
windows.py       random windows of a corpus, one a text: what contexts are compared with, and what is held out
prompts.py       explain_with, and what exactly an LLM is told when it explains or judges
llm.py           Endpoint (any OpenAI-compatible one), LocalModel: who is asked
"""
