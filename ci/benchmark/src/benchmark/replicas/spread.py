"""How evenly the replicas were used."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.replicas.watch import Watched


@dataclass(frozen=True, slots=True)
class Spread:
    """Of KV cache utilisation (0 to 1) between the replicas, averaged over the looks; NaN with nothing to compare."""

    deviation: float
    """Mean of the standard deviation (of the population of replicas)."""
    gap: float
    """Mean of the highest less the lowest."""


def kv_usage(watched: Watched) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (looks) on the clock of the looks, and KV cache utilisation (looks x replicas)."""
    times = np.array([look.at_s for look in watched.looks])
    usage = np.array([[load.kv_usage for load in look.loads] for look in watched.looks])
    return times, usage.reshape(len(watched.looks), len(watched.replicas))


def kv_spread(watched: Watched) -> Spread:
    """Over the looks at which at least two replicas answered and at least one was in use: an idle fleet is even,
    however its load is balanced."""
    _, usage = kv_usage(watched)
    known = ~np.isnan(usage)
    looks = usage[(known.sum(axis=1) >= 2) & (np.where(known, usage, 0.0).max(axis=1, initial=0.0) > 0)]
    if not len(looks):
        return Spread(float("nan"), float("nan"))
    gaps = np.nanmax(looks, axis=1) - np.nanmin(looks, axis=1)
    return Spread(float(np.nanstd(looks, axis=1).mean()), float(gaps.mean()))


def prefix_hit_rate(watched: Watched) -> float:
    """Share of the prompt tokens found in the replicas' prefix caches, 0 to 1; NaN if no replica tells."""
    pairs = list(zip(watched.looks[0].loads, watched.looks[-1].loads, strict=True)) if watched.looks else []
    queries = np.nansum([after.prefix_queries - before.prefix_queries for before, after in pairs])
    hits = np.nansum([after.prefix_hits - before.prefix_hits for before, after in pairs])
    return float(hits / queries) if queries > 0 else float("nan")
