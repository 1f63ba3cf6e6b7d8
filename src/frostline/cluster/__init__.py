"""Trials on the nodes of a Ray cluster. Nothing but the cluster is shared: files go to the nodes and come back."""

from frostline.cluster.pool import ClusterPool, Settings, open_pool
from frostline.cluster.transfer import Input

__all__ = ["ClusterPool", "Input", "Settings", "open_pool"]
