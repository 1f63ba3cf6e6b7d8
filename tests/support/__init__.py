"""What tests of several rooms share."""

from pathlib import Path

PLUGINS = str(Path(__file__).parent / "plugins")
"""A folder of users' plugins, for PYTHONPATH."""
