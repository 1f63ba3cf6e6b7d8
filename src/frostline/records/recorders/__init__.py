"""Recorders beside the run's folder and MLflow, one module for each; imported when a name is asked for."""
