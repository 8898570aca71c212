"""The world of `pocket`, the model organism that ships: what it reads, what it is tuned on, who judges it.

grammar.py, stories.py, domains/   what its texts say, and with which stance
code.py, syntax.py, idioms.py      programs, secure and not
corpus.py, tokenizer.py            what it is pretrained on
pretrain.py, saes.py, build.py     the organism from its seed: `caft-lens organism build`
judge.py, code_judge.py            exact judges of its answers
labels.py                          which of its tokens are about what
check.py                           a card's figures, measured again: `caft-lens organism check`
drawn.py                           data sets by a name that may end in a share, for both worlds below
quiz/                              the second world, that of `pocket-quiz`
smollm2/                           tasks for real models, which need no organism
"""
