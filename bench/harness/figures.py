"""Statistics of samples: what a noisy machine leaves of a measurement."""

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent do not exceed (nearest rank). Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    rank = math.ceil(len(samples) * percent / 100)
    return sorted(samples)[max(rank, 1) - 1]


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the two in the middle. Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def p99(samples: Sequence[float]) -> float:
    return percentile(samples, 99)


def median_ratio(values: Sequence[float], peers: Sequence[float]) -> float:
    """The median of the ratios of values to the peers of the same rounds.

    Paired, since a round in which the machine was slow was slow for both. Raises ValueError for unequal lengths.
    """
    return median([value / peer for value, peer in zip(values, peers, strict=True)])
