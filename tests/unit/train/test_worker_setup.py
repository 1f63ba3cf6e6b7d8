"""What a process that others are forks of must be."""

import torch

from frostline.train import can_be_forked


def test_a_process_whose_forks_could_not_use_its_gpu_knows_it(monkeypatch):
    """That torch tells so of a real one: tests/e2e/train/test_gpu.py."""
    # Once another test has asked a CUDA build for a GPU, forks of this process are refused one.
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    assert can_be_forked()
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert not can_be_forked()
