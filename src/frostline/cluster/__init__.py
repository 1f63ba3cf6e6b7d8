"""Trials on the nodes of a Ray cluster. Nothing but the cluster is shared: files go to the nodes and come back."""

from frostline.cluster.open_pool import open_pool
from frostline.cluster.pool import ClusterPool
from frostline.cluster.settings import ClusterSettings
from frostline.cluster.transfer import LocalInput

__all__ = ["ClusterPool", "ClusterSettings", "LocalInput", "open_pool"]
