"""frostline in a real Jupyter kernel: what it shows, an interrupt, and that no process stays behind."""

import re
import time
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from tests.conftest import TINY

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

OVERRIDES = [*TINY, "tracking=off", "sweep.baseline=false", "sweep.settle=0", "runtime.slots=2"]


class Kernel:
    """A kernel and its output."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code, interrupt_at=None, timeout=180):
        """Returns what a cell printed and showed, and the name of its exception; interrupts it when it prints so."""
        request = self.client.execute(code)
        text, error, shown = "", None, []
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            text += content.get("text", "") if message["msg_type"] == "stream" else ""
            if message["msg_type"] in {"execute_result", "display_data"}:
                shown.append(content["data"])
            if message["msg_type"] == "error":
                error = content["ename"]
            if interrupt_at is not None and re.search(interrupt_at, text):
                interrupt_at = None
                self.manager.interrupt_kernel()
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                return text, error, shown
        raise AssertionError(f"the cell did not end: {text}")

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(in_tmp):
    kernel = Kernel(in_tmp)
    yield kernel
    kernel.close()


def children(pid):
    """The processes below one, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(path.parent.name))
        except OSError:
            continue
    below, todo = [], [pid]
    while todo:
        own = found.get(todo.pop(), [])
        below += own
        todo += own
    return below


def test_a_sweep_is_interrupted_and_resumed_in_a_notebook(kernel, tiny_model, tiny_csv):
    call = (
        f"fl.sweep('lr_x_depth', model={str(tiny_model)!r}, train={str(tiny_csv)!r}, text='text', label='label', "
        f"overrides={OVERRIDES} + ['sweep.n_trials=4', 'training.epochs=3'])"
    )
    _, error, _ = kernel.run("import frostline as fl; import os")
    assert error is None
    text, error, _ = kernel.run(f"study = {call}", interrupt_at=r"\[1/4\]")
    assert error == "KeyboardInterrupt", text
    assert "stopping after the step; once more stops at once" in text
    pid = kernel.manager.provisioner.pid
    commands = [Path(f"/proc/{each}/cmdline").read_bytes().decode() for each in children(pid)]
    workers = [each for each in commands if "forkserver" not in each and "resource_tracker" not in each]
    assert workers == []
    text, error, shown = kernel.run(f"study = {call}; study")
    assert error is None, text
    assert "resuming:" in text
    assert shown[0]["text/html"].startswith("<iframe")
    text, error, shown = kernel.run("study.figures['depth']")
    assert error is None
    assert "image/png" in shown[0]
    text, error, _ = kernel.run("fl.run(['freeze.depth=99'])")
    assert error == "SpecError"


def test_a_run_is_interrupted_in_a_notebook(kernel, tiny_model, tiny_csv):
    call = (
        f"fl.run({[*TINY, 'tracking=off', 'training.epochs=40']}, model={str(tiny_model)!r}, train={str(tiny_csv)!r}, "
        "text='text', label='label', folder='it')"
    )
    kernel.run("import frostline as fl")
    text, error, _ = kernel.run(f"run = {call}", interrupt_at="step 16:")
    assert error == "KeyboardInterrupt", text
    text, error, _ = kernel.run("print(fl.load('it').status)")
    assert text == "KILLED\n"


def test_torch_is_not_in_the_kernel_when_a_sweep_has_run(kernel, tiny_model, tiny_csv):
    kernel.run("import frostline as fl, sys")
    text, error, _ = kernel.run(
        f"run = fl.run({[*TINY, 'tracking=off']}, model={str(tiny_model)!r}, train={str(tiny_csv)!r}); "
        "print('torch' in sys.modules)"
    )
    assert error is None, text
    assert text.endswith("False\n")
