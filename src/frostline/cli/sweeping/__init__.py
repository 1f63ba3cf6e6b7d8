"""Owns: the course of a sweep - where search, worker pool, MLflow and folders meet. Must not know: how a run trains."""
