"""Owns: what the process imports that a sweep's workers are forks of. Must not know: what they do.

It is imported there and nowhere else.
"""

from contextlib import suppress

from frostline.cli.sweeping.trial import warm

with suppress(Exception, SystemExit):  # what is wrong with it will show in the first trial
    warm()
