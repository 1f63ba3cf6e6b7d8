"""What the workers of `sleeping_trials` are forks of: nothing that needs time or memory is imported."""

from frostline.workers.process import be_template

be_template()

import frostline.sweeps.trial  # noqa: E402, F401 - after that
