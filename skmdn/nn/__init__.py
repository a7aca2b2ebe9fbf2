"""Mixture density networks as torch modules: several members in one computation."""

from skmdn.nn.embeddings import PeriodicEmbedding
from skmdn.nn.likelihood import mixture_nll, mixture_nll_bound
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.pool import NetworkPool

__all__ = [
    "MixtureDensityNetwork",
    "NetworkPool",
    "PeriodicEmbedding",
    "mixture_nll",
    "mixture_nll_bound",
]
