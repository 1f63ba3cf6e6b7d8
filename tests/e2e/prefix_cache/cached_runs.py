"""Runs with and without the prefix cache."""

from __future__ import annotations

from safetensors.torch import load_file


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")
