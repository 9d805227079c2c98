"""How evenly a load used the replicas."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.replicas.watch import Recording


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of KV cache utilisation (0 to 1) between the replicas, averaged over the samples. NaN if there is
    nothing to compare."""

    deviation: float
    """Mean of the standard deviation (population of replicas)."""
    gap: float
    """Mean of the difference between the highest and the lowest."""


def kv_usage(recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of the samples (`time.perf_counter`), and KV cache utilisation (samples x replicas)."""
    times = np.array([sample.at_s for sample in recording.samples])
    usage = np.array([[load.kv_usage for load in sample.loads] for sample in recording.samples])
    return times, usage.reshape(len(recording.samples), len(recording.replicas))


def kv_spread(recording: Recording) -> Spread:
    """The spread over the samples in which two or more replicas answered and one or more was in use.

    Other samples would make every fleet look even: an idle fleet has no spread."""
    _, usage = kv_usage(recording)
    known = ~np.isnan(usage)
    samples = usage[(known.sum(axis=1) >= 2) & (np.where(known, usage, 0.0).max(axis=1, initial=0.0) > 0)]
    if not len(samples):
        return Spread(float("nan"), float("nan"))
    gaps = np.nanmax(samples, axis=1) - np.nanmin(samples, axis=1)
    return Spread(float(np.nanstd(samples, axis=1).mean()), float(gaps.mean()))


def prefix_hit_rate(recording: Recording) -> float:
    """Share of the prompt tokens found in the replicas' prefix caches, 0 to 1; NaN if no replica reports it."""
    pairs = list(zip(recording.samples[0].loads, recording.samples[-1].loads, strict=True)) if recording.samples else []
    queries = np.nansum([after.prefix_queries - before.prefix_queries for before, after in pairs])
    hits = np.nansum([after.prefix_hits - before.prefix_hits for before, after in pairs])
    return float(hits / queries) if queries > 0 else float("nan")
