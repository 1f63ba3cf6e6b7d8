"""What frostline relies on in Hydra."""

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from frostline import paths


def test_sweeps_are_found_by_frostlines_application_only(tmp_path):
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        assert compose("config", overrides=["+sweep=demo"]).dataset.train_rows == 1024
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        # No such group there, so it is a plain value.
        assert compose("config", overrides=["+sweep=demo"]) == {"a": 1, "sweep": "demo"}


def test_sweep_values_can_be_listed():
    (override,) = OverridesParser.create().parse_overrides(["freeze.depth=0,range(2,5)"])
    assert override.is_sweep_override()


def test_an_unknown_key_may_be_added_with_a_plus_so_frostline_must_look_itself():
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        assert compose("config", overrides=["+optimizer.extra=1"]).optimizer.extra == 1
