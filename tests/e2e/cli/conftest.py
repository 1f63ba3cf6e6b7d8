"""Fixtures of these tests."""

import pytest


@pytest.fixture
def store(in_tmp):
    """An MLflow client on `mlflow.db` in the working folder, the default store."""
    from frostline.tracking import client

    return client("sqlite:///mlflow.db")
