"""Evidence for a pattern: how episodes with it ended, against how they would have ended without any effect.

For every stratum (domain and task type) a 2 × 2 table stands: successes and failures of the episodes in which the
pattern occurs, and of those of its contrast group in which it does not. The base rate is what the strata would give
by themselves (indirect standardisation), so that a pattern is not praised for occurring in an easy domain.

Sources: `exact` for the tests; Benjamini and Hochberg (1995) for the q-values, over the tests that can be significant
at all (Gilbert 2005); for mean and interval a Beta posterior whose prior is worth `PRIOR_STRENGTH` observations at the
base rate, itself smoothed by Laplace's rule, because a base rate of 1 out of 1 episode is no certainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from memory_mcp.learning.exact import stratified

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


class Evidence(NamedTuple):
    """What is known about a pattern. Rates are shares in 0..1; `alpha` and `beta` are those of the posterior."""

    successes: int
    failures: int
    base_rate: float
    alpha: float
    beta: float
    p_value: float
    q_value: float
    verdict: Verdict

    @property
    def support(self) -> int:
        """Episodes with the pattern and an outcome that counts."""
        return self.successes + self.failures

    @property
    def posterior_mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)

    @property
    def interval(self) -> tuple[float, float]:
        """Holds the rate with probability .95."""
        return _interval(self.alpha, self.beta)

    @property
    def lift(self) -> float:
        return self.posterior_mean / self.base_rate if self.base_rate > 0 else 1.0

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


class Judged:
    """Evidence for many patterns, in columns; `judged[place]` is that of one."""

    def __init__(self, columns: tuple[Any, ...]) -> None:
        self._columns = columns

    @property
    def verdicts(self) -> NDArray[np.str_]:
        """The verdict on each pattern."""
        found: NDArray[np.str_] = self._columns[-1]
        return found

    def __len__(self) -> int:
        return len(self.verdicts)

    def __getitem__(self, place: int) -> Evidence:
        return Evidence(*(column[place].item() for column in self._columns))


def judge(patterns: Sequence[Sequence[Stratum]], rate: float = FALSE_DISCOVERY_RATE) -> list[Evidence]:
    """Evidence for all patterns of a family, given as their strata; `rate` is the false discovery rate."""
    from memory_mcp.numerics import np

    counts = [
        (owner, s.successes, s.failures, s.group_successes, s.group_failures)
        for owner, strata in enumerate(patterns)
        for s in strata
    ]
    judged = judge_counts(len(patterns), np.array(counts, np.int64).reshape(-1, 5).T, rate)
    return [judged[place] for place in range(len(judged))]


def judge_counts(count: int, table: NDArray[np.int64], rate: float = FALSE_DISCOVERY_RATE) -> Judged:
    """Evidence for `count` patterns from the columns of a table with one line for each stratum of each pattern.

    The columns: number of the pattern, in ascending order, its successes and failures, those of its contrast group.
    Patterns with less than `MIN_SUPPORT` episodes, and those that no outcome could make significant, are not tested:
    their p- and q-values are 1 and they are `unproven`.
    """
    from memory_mcp.numerics import np

    owner, successes, failures, group_successes, group_failures = table[:, table[1] + table[2] > 0]
    n, total = successes + failures, group_successes + group_failures
    a = np.bincount(owner, successes, count)
    b = np.bincount(owner, failures, count)
    support = np.maximum(a + b, 1)
    expected = np.bincount(owner, n * group_successes / total, count)
    prior = np.bincount(owner, n * (group_successes + 1) / (total + 2), count) / support
    often = (a + b >= MIN_SUPPORT)[owner]
    tested, found = stratified(owner[often], successes[often], n[often], group_successes[often], total[often], rate)
    p_values, q_values = np.ones(count), np.ones(count)
    p_values[tested] = found
    q_values[tested] = benjamini_hochberg(found)
    verdicts = np.where(q_values > rate, "unproven", np.where(a > expected, "helps", "hurts"))
    alpha, beta = _posterior(a, b, prior)
    return Judged((a.astype(int), b.astype(int), expected / support, alpha, beta, p_values, q_values, verdicts))


def benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """q-values: the smallest false discovery rate at which each test would count as a discovery."""
    from memory_mcp.numerics import np

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
    alpha, beta = _posterior(successes, failures, mean, strength)
    return float(alpha / (alpha + beta)), *_interval(float(alpha), float(beta))


def _posterior(successes: Any, failures: Any, centre: Any, strength: float = PRIOR_STRENGTH) -> tuple[Any, Any]:
    from memory_mcp.numerics import np

    # no less than the prior of Jeffreys, or a base rate near 0 or 1 would pass for certainty
    return successes + np.maximum(0.5, strength * centre), failures + np.maximum(0.5, strength * (1 - centre))


def _interval(alpha: float, beta: float) -> tuple[float, float]:
    from memory_mcp.numerics import special

    quantile = special().betaincinv
    return float(quantile(alpha, beta, 0.025)), float(quantile(alpha, beta, 0.975))
