"""Exact conditional tests of many 2 × 2 tables at once, each in one or several strata.

A table says how many of `n` episodes with a pattern succeeded, where `group_successes` of `total` did in all. With
these margins fixed, and no effect of the pattern, the number of successes is hypergeometric, and over several strata
a sum of independent hypergeometric numbers. The two-sided p-value is the probability of all outcomes that are not
more probable than the observed one: Fisher's exact test (Agresti, Categorical Data Analysis, 3rd ed., section 3.5)
for one stratum, the exact test of conditional independence for several (Mehta, Patel and Gray 1985; the same as
`mantelhaen.test(exact = TRUE)` of R). The normal approximation of Cochran, Mantel and Haenszel takes over where the
variance is large; below that it is far off just where it matters, in the tails of rare outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Reals = NDArray[np.float64]

# a standard deviation of 20 successes: there the approximation is off by a tenth at p = .0003
_LARGE_VARIANCE = 400.0
# what the approximation puts at so many times the level is not significant by the exact test either
_CLEARLY_ABOVE = 5.0
# outcomes further from the mean have less than 1e-9 together
_REACH_DEVIATIONS, _REACH_FIXED = 7.0, 10.0
# outcomes as probable as the observed one must not be lost to rounding
_RELATIVE, _ABSOLUTE = 1 + 1e-7, 1e-15


def fisher_exact(successes: Numbers, n: Numbers, group_successes: Numbers, total: Numbers) -> Reals:
    """Two-sided p-values of tables that stand alone."""
    from memory_mcp.numerics import np

    low, high = _window(n, group_successes, total)
    log_p, row, starts = _probabilities(low, high, n, group_successes, total)
    inside = np.clip(successes, low, high)
    counted = np.where(log_p <= log_p[starts + inside - low][row] + np.log(_RELATIVE), np.exp(log_p), 0.0)
    return np.minimum(1.0, np.add.reduceat(counted, starts))


def stratified(
    owner: Numbers, successes: Numbers, n: Numbers, group_successes: Numbers, total: Numbers, level: float
) -> tuple[Numbers, Reals]:
    """`(owners, p-values)` of the owners that can be significant at a level; owners stand in ascending order.

    Left out is who would not be significant even with the most extreme outcome (Tarone 1990): that depends on the
    margins alone, so it does not bias the tests that remain, and a family without them is smaller.
    """
    from memory_mcp.numerics import np, special

    spread = n * (total - n) * (group_successes * (total - group_successes)).astype(float)
    informative = spread > 0
    if not informative.any():
        return owner[:0], np.empty(0)
    owner, successes, n, group_successes, total, spread = (
        values[informative] for values in (owner, successes, n, group_successes, total, spread)
    )
    owners, starts = np.unique(owner, return_index=True)
    variance = np.add.reduceat(spread / (total * total * (total - 1.0)), starts)
    expected = np.add.reduceat(n * group_successes / total, starts)
    observed = np.add.reduceat(successes, starts)
    strata = np.diff(np.append(starts, len(owner)))

    possible = _least(starts, n, group_successes, total) <= level
    distance = np.maximum(0.0, np.abs(observed - expected) - 0.5)
    p_values = 2 * special().ndtr(-distance / np.sqrt(variance))
    near = possible & (variance <= _LARGE_VARIANCE) & (p_values < _CLEARLY_ABOVE * level)
    alone, several = near & (strata == 1), near & (strata > 1)
    if alone.any():
        at = starts[alone]
        p_values[alone] = fisher_exact(successes[at], n[at], group_successes[at], total[at])
    reach = _REACH_DEVIATIONS * np.sqrt(variance) + _REACH_FIXED
    low, high = _range(n, group_successes, total)
    span = np.add.reduceat(high - low, starts) + 1
    sizes = np.where(several, 2 ** np.ceil(np.log2(np.minimum(2 * reach, span))), 0).astype(np.int64)
    for size in np.unique(sizes[several]):
        chosen = sizes == size
        rows = np.repeat(chosen, strata)
        sums = _sums(int(size), strata[chosen], n[rows], group_successes[rows], total[rows])
        at_observed = np.take_along_axis(sums, (observed[chosen] % size)[:, None], axis=1)
        found = np.where(sums <= at_observed * _RELATIVE + _ABSOLUTE, sums, 0.0).sum(axis=1)
        # what lies further out than the sums reach would be read from the wrong end
        p_values[chosen] = np.where(np.abs(observed - expected)[chosen] < reach[chosen], found, 0.0)
    return owners[possible], np.clip(p_values[possible], 0.0, 1.0)


def _sums(size: int, strata: Numbers, n: Numbers, group_successes: Numbers, total: Numbers) -> Reals:
    """Distributions of sums over strata, each outcome at its place modulo `size`, by multiplying spectra."""
    from memory_mcp.numerics import np

    low, high = _window(n, group_successes, total)
    log_p, row, starts = _probabilities(low, high, n, group_successes, total)
    outcome = np.arange(len(row)) - starts[row] + low[row]
    table = np.bincount(row * size + outcome % size, np.exp(log_p), len(n) * size).reshape(len(n), size)
    first = np.cumsum(strata) - strata
    spectra = np.multiply.reduceat(np.fft.rfft(table, axis=1), first, axis=0)
    sums: Reals = np.maximum(0.0, np.fft.irfft(spectra, size, axis=1))
    return sums


def _least(starts: Numbers, n: Numbers, group_successes: Numbers, total: Numbers) -> Reals:
    """The p-values of the most extreme outcomes that the margins allow: all strata at the same end."""
    from memory_mcp.numerics import np

    log_factorial = _log_factorials(int(total.max()))
    low, high = (
        np.exp(np.add.reduceat(_log_p(log_factorial, end, n, group_successes, total), starts))
        for end in _range(n, group_successes, total)
    )
    both = np.where(np.abs(low - high) <= (_RELATIVE - 1) * np.maximum(low, high), 2.0, 1.0)
    return both * np.minimum(low, high)


def _range(n: Numbers, group_successes: Numbers, total: Numbers) -> tuple[Numbers, Numbers]:
    """The least and the greatest number of successes that the margins of each table allow."""
    from memory_mcp.numerics import np

    return np.maximum(0, n - (total - group_successes)), np.minimum(n, group_successes)


def _window(n: Numbers, group_successes: Numbers, total: Numbers) -> tuple[Numbers, Numbers]:
    """The outcomes of each table that matter."""
    from memory_mcp.numerics import np

    mean = n * group_successes / total
    variance = mean * (total - n) * (total - group_successes) / np.maximum(1, total * (total - 1.0))
    reach = _REACH_DEVIATIONS * np.sqrt(variance) + _REACH_FIXED
    low, high = _range(n, group_successes, total)
    return np.maximum(low, np.ceil(mean - reach).astype(np.int64)), np.minimum(
        high, np.floor(mean + reach).astype(np.int64)
    )


def _probabilities(
    low: Numbers, high: Numbers, n: Numbers, group_successes: Numbers, total: Numbers
) -> tuple[Reals, Numbers, Numbers]:
    """`(log probability, table, starts)` of the outcomes from `low` to `high` of all tables, one after the other."""
    from memory_mcp.numerics import np

    sizes = high - low + 1
    starts = np.cumsum(sizes) - sizes
    row = np.repeat(np.arange(len(n)), sizes)
    outcome = np.arange(len(row)) - starts[row] + low[row]
    log_factorial = _log_factorials(int(total.max()))
    return _log_p(log_factorial, outcome, n[row], group_successes[row], total[row]), row, starts


def _log_p(log_factorial: Reals, outcome: Numbers, n: Numbers, group_successes: Numbers, total: Numbers) -> Reals:
    def log_choose(top: Any, bottom: Any) -> Any:
        return log_factorial[top] - log_factorial[bottom] - log_factorial[top - bottom]

    found: Reals = (
        log_choose(group_successes, outcome) + log_choose(total - group_successes, n - outcome) - log_choose(total, n)
    )
    return found


def _log_factorials(top: int) -> Reals:
    from memory_mcp.numerics import np, special

    found: Reals = special().gammaln(np.arange(1.0, top + 2.0))
    return found
