"""The prefix cache: hidden states of frozen blocks, computed once and reused.

Frozen blocks are deterministic, so their output for a row never changes: it is kept on the disk and shared by epochs,
runs, processes and later commands. The blocks above are trained from there.

`entry` reads and writes the files of one entry, `store` finds, lists and bounds all entries; neither knows torch.
`compute` makes hidden states, `suffix` is a model that starts above them, `open_or_compute` puts these together, and
`attach` gives them to a run.
"""
