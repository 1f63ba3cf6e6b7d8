"""frostline: how much of a pretrained model should be frozen for my task, and at what learning rate?

Importing this package imports nothing heavy; see docs/design.md for its rooms.
"""

__version__ = "0.1.0"
