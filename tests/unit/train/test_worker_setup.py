"""What a process that others are forks of must be."""

import torch

from frostline.train import can_be_forked


def test_a_process_whose_forks_could_not_use_its_gpu_knows_it(monkeypatch):
    """That torch tells so of a real one: tests/e2e/train/test_gpu.py."""
    # A build for CUDA that has looked for a GPU before, in another test, has none any more for its forks.
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    assert can_be_forked()
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert not can_be_forked()
