"""What the workers of `sleeping_trials` are forks of: nothing that needs time or memory is imported."""

from frostline.forking import be_template

be_template()

import frostline.cli.sweeping.trial  # noqa: E402, F401 - after that
