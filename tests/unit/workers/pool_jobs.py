"""Jobs of test_pool.py: a worker imports this module."""

import os
import signal
import sys
import time
from pathlib import Path


def job(payload, channel):
    what = payload["do"]
    if what == "pid":
        return os.getpid()
    if what == "retire":
        channel.restart_after_job()
        return os.getpid()
    if what == "ask":
        return channel.ask("may I?")
    if what == "meet":
        print("meeting as", payload["name"])
        Path(payload["folder"], payload["name"]).touch()
        while not Path(payload["folder"], payload["other"]).exists():
            time.sleep(0.05)
        return os.environ["SLOT"]
    if what == "env":
        return os.environ["SLOT"]
    if what == "at the end":
        import atexit

        atexit.register(Path(payload["touch"]).touch)
        return None
    if what == "draw":
        import numpy as np
        import torch

        time.sleep(1.0)  # no slot takes two
        return torch.get_num_threads(), float(np.random.random()), float(torch.rand(()))
    if what == "imported":
        return payload["module"] in sys.modules
    if what == "raise":
        raise ValueError("two\nlines")
    if what == "exit":
        sys.exit(3)
    if what == "unpicklable":
        return lambda: None
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave a lock":
        import multiprocessing

        lock = multiprocessing.get_context("spawn").Lock()
        assert lock is not None
        os._exit(7)
    if what == "quit":
        os._exit(7)
    if what == "slow":
        end = time.monotonic() + payload["seconds"]
        while time.monotonic() < end:
            time.sleep(0.05)
            channel.heartbeat()
        return None
    time.sleep(600)
    return None
