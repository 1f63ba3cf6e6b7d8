"""What `import frostline` gives: the names that users rely on, and nothing heavy."""

import inspect
import subprocess
import sys

import pytest

import frostline

NAMES = [
    "Decision", "Inspection", "Reproduction", "Run", "RunFailedError", "Study", "SweepPlan", "UserError",
    "inspect", "load", "plan", "reproduce", "run", "sweep",
]  # fmt: skip


def test_the_public_names_are_these():
    assert sorted(frostline.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(frostline))


def test_importing_it_imports_nothing_heavy():
    heavy = ["torch", "transformers", "hydra", "optuna", "mlflow", "pandas", "numpy", "datasets"]
    code = f"import sys, frostline; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_its_functions_import_no_torch_before_they_train():
    code = "import sys, frostline as fl; fl.sweep, fl.run, fl.load, fl.plan; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_documented_and_typed(name):
    value = getattr(frostline, name)
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert all(each.annotation is not inspect.Parameter.empty for each in signature.parameters.values())
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters:
            assert f"{parameter}:" in value.__doc__, parameter


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        frostline.swep  # noqa: B018


def test_errors_are_no_system_exit():
    assert issubclass(frostline.UserError, Exception)
    assert issubclass(frostline.RunFailedError, Exception)
