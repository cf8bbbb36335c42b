"""Evidence for a pattern: how episodes with it ended, against how they would have ended without any effect.

For every stratum (domain and task type) a 2 × 2 table stands: successes and failures of the episodes in which the
pattern occurs, and of those of its contrast group in which it does not. The base rate is what the strata would give
by themselves (indirect standardisation), so that a pattern is not praised for occurring in an easy domain.

Sources: Fisher's exact test (Agresti, Categorical Data Analysis, 3rd ed., section 3.5) for one stratum, the
Cochran-Mantel-Haenszel test with continuity correction (section 6.4) for several; Benjamini and Hochberg (1995) for
the q-values; for mean and interval a Beta posterior whose prior is worth `PRIOR_STRENGTH` observations at the base
rate, itself smoothed by Laplace's rule, because a base rate of 1 out of 1 episode is no certainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["helps", "hurts", "unproven"]

FALSE_DISCOVERY_RATE = 0.05
PRIOR_STRENGTH = 2.0
# whether a pattern is tested depends on how often it occurs, never on how those episodes ended
MIN_SUPPORT = 3


@dataclass(frozen=True, slots=True)
class Stratum:
    """Counts of one domain and task type: with the pattern, and in its whole contrast group."""

    successes: int
    failures: int
    group_successes: int
    group_failures: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a pattern. Rates are shares in 0..1, `interval` holds the rate with probability .95."""

    support: int
    successes: int
    failures: int
    base_rate: float
    lift: float
    posterior_mean: float
    interval: tuple[float, float]
    p_value: float
    q_value: float
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Rounded for reading."""
        return {
            "support": self.support,
            "successes": self.successes,
            "failures": self.failures,
            "base_rate": round(self.base_rate, 3),
            "lift": round(self.lift, 2),
            "posterior_mean": round(self.posterior_mean, 3),
            "interval": [round(bound, 3) for bound in self.interval],
            "q_value": round(self.q_value, 4),
            "verdict": self.verdict,
        }


def judge(patterns: Sequence[Sequence[Stratum]], rate: float = FALSE_DISCOVERY_RATE) -> list[Evidence]:
    """Evidence for all patterns of a family, given as their strata; `rate` is the false discovery rate.

    Patterns with less than `MIN_SUPPORT` episodes, or without an episode to compare with, are not tested: their
    p- and q-values are 1 and they are `unproven`.
    """
    import numpy as np

    if not patterns:
        return []
    a = np.array([sum(s.successes for s in strata) for strata in patterns], float)
    b = np.array([sum(s.failures for s in strata) for strata in patterns], float)
    expected, variance, prior = np.zeros(len(a)), np.zeros(len(a)), np.zeros(len(a))
    p_values = np.ones(len(a))
    single: list[tuple[int, int, int, int, int]] = []
    several: list[int] = []
    for row, strata in enumerate(patterns):
        informative = 0
        table = (0, 0, 0, 0)
        for s in strata:
            n, total = s.successes + s.failures, s.group_successes + s.group_failures
            if not n:
                continue
            expected[row] += n * s.group_successes / total
            prior[row] += n * (s.group_successes + 1) / (total + 2)
            spread = n * (total - n) * s.group_successes * s.group_failures
            if spread:
                variance[row] += spread / (total * total * (total - 1))
                informative += 1
                table = (s.successes, n, s.group_successes, total)
        if a[row] + b[row] >= MIN_SUPPORT:
            if informative == 1:
                single.append((row, *table))
            elif informative > 1:
                several.append(row)
    if single:
        rows = np.array(single)
        p_values[rows[:, 0]] = fisher_exact(rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4])
    if several:
        p_values[several] = _mantel_haenszel(a[several], expected[several], variance[several])
    tested = [row for row, *_ in single] + several
    q_values = np.ones(len(a))
    q_values[tested] = benjamini_hochberg(p_values[tested])
    support = np.maximum(a + b, 1)
    base = expected / support
    means, lows, highs = _posterior(a, b, prior / support)
    found = []
    for row in range(len(patterns)):
        verdict: Verdict = "unproven"
        if q_values[row] <= rate:
            verdict = "helps" if a[row] > expected[row] else "hurts"
        found.append(
            Evidence(
                support=int(a[row] + b[row]),
                successes=int(a[row]),
                failures=int(b[row]),
                base_rate=float(base[row]),
                lift=float(means[row] / base[row]) if base[row] > 0 else 1.0,
                posterior_mean=float(means[row]),
                interval=(float(lows[row]), float(highs[row])),
                p_value=float(p_values[row]),
                q_value=float(q_values[row]),
                verdict=verdict,
            )
        )
    return found


def fisher_exact(
    successes: NDArray[np.int64], n: NDArray[np.int64], group_successes: NDArray[np.int64], total: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Two-sided p-values of many 2 × 2 tables: `successes` of `n` episodes, `group_successes` of `total` in all.

    The sum of the probabilities of all tables with the same margins that are not more probable than the observed.
    """
    import numpy as np
    from scipy.special import gammaln

    low = np.maximum(0, n - (total - group_successes))
    high = np.minimum(n, group_successes)
    sizes = high - low + 1
    row = np.repeat(np.arange(len(n)), sizes)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    k = np.arange(int(sizes.sum())) - np.repeat(starts, sizes) + np.repeat(low, sizes)

    def log_choose(top: Any, bottom: Any) -> Any:
        return gammaln(top + 1) - gammaln(bottom + 1) - gammaln(top - bottom + 1)

    log_p = (
        log_choose(group_successes[row], k)
        + log_choose((total - group_successes)[row], n[row] - k)
        - log_choose(total, n)[row]
    )
    observed = log_p[starts + successes - low]
    # tables as probable as the observed one must not be lost to rounding
    counted = np.where(log_p <= observed[row] + 1e-7, np.exp(log_p), 0.0)
    p_values: NDArray[np.float64] = np.minimum(1.0, np.add.reduceat(counted, starts))
    return p_values


def benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """q-values: the smallest false discovery rate at which each test would count as a discovery."""
    import numpy as np

    count = len(p_values)
    if not count:
        return p_values
    order = np.argsort(p_values)
    stepped = p_values[order] * count / np.arange(1, count + 1)
    q_values = np.empty(count)
    q_values[order] = np.minimum(1.0, np.minimum.accumulate(stepped[::-1])[::-1])
    return q_values


def beta_interval(successes: float, failures: float, mean: float, strength: float) -> tuple[float, float, float]:
    """`(mean, low, high)` of a Beta posterior with a prior of `strength` observations at `mean`, for one rate."""
    import numpy as np

    means, lows, highs = _posterior(np.array([successes]), np.array([failures]), np.array([mean]), strength)
    return float(means[0]), float(lows[0]), float(highs[0])


def _mantel_haenszel(a: Any, expected: Any, variance: Any) -> Any:
    import numpy as np
    from scipy.special import ndtr

    distance = np.maximum(0.0, np.abs(a - expected) - 0.5)
    return 2 * ndtr(-distance / np.sqrt(variance))


def _posterior(a: Any, b: Any, centre: Any, strength: float = PRIOR_STRENGTH) -> tuple[Any, Any, Any]:
    import numpy as np
    from scipy.special import betaincinv

    # both parameters of a Beta distribution are positive
    centre = np.clip(centre, 0.01, 0.99)
    alpha, beta = a + strength * centre, b + strength * (1 - centre)
    return alpha / (alpha + beta), betaincinv(alpha, beta, 0.025), betaincinv(alpha, beta, 0.975)
