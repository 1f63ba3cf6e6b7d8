"""The prefix cache: hidden states of frozen blocks, computed once and reused.

Frozen blocks are deterministic, so their output for a row never changes: it is kept on the disk and shared by epochs,
runs, processes and later commands. The blocks above are trained from there.

`store` keeps files and knows no torch; `fill` computes them; `suffix` is a model that begins above them; `provide` puts
the three together.
"""
