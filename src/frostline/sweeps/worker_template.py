"""Imports that a sweep's forked workers share.

It is imported there and nowhere else.
"""

import os
from contextlib import suppress

from frostline.workers.process import be_template

be_template()  # before the imports, which take seconds

# Asked whether there is a GPU, torch would open it; so it only counts. The workers' environment is another one.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

from frostline.sweeps.trial import warm  # noqa: E402 - after that

with suppress(Exception, SystemExit):  # what is wrong with it will show in the first trial
    warm()
    from frostline.train import can_be_forked

    if not can_be_forked():
        os._exit(1)
