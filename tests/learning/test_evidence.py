"""Evidence: q-values, posterior, and what is judged at all."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from memory_mcp.learning.evidence import Stratum, benjamini_hochberg, beta_interval, judge


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_q_values_agree_with_scipy(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values, method="bh")
    np.testing.assert_allclose(benjamini_hochberg(np.array(p_values)), expected, rtol=1e-12)


def test_no_patterns_have_no_evidence() -> None:
    assert judge([]) == []


@given(
    st.lists(
        st.tuples(*[st.integers(0, 40)] * 4).map(lambda n: Stratum(n[0], n[1], n[0] + n[2], n[1] + n[3])),
        min_size=1,
        max_size=4,
    )
)
def test_every_number_is_a_number_in_its_range(strata: list[Stratum]) -> None:
    [found] = judge([strata])
    low, high = found.interval
    assert 0 <= low <= found.posterior_mean <= high <= 1
    assert 0 <= found.base_rate <= 1
    assert 0 <= found.p_value <= 1
    assert 0 <= found.q_value <= 1
    assert np.isfinite(found.lift)
    assert found.support == found.successes + found.failures
    assert found.verdict == "unproven" or found.q_value <= 0.05


@pytest.mark.parametrize("size", [3, 1_000, 100_000])
def test_rates_of_nought_and_one_have_evidence_without_certainty(size: int) -> None:
    always, never = judge([[Stratum(size, 0, size, size)], [Stratum(0, size, size, size)]])
    assert always.posterior_mean < 1
    assert never.posterior_mean > 0
    assert always.interval[1] <= 1
    assert never.interval[0] >= 0
    if size > 3:
        assert (always.verdict, never.verdict) == ("helps", "hurts")


def test_an_easy_domain_does_not_make_a_pattern_good() -> None:
    # it succeeds as often as everything else in either domain, but is seen mostly in the easy one
    [found] = judge([[Stratum(90, 10, 180, 20), Stratum(2, 8, 20, 80)]])
    assert found.verdict == "unproven"
    assert found.base_rate == pytest.approx((100 * 0.9 + 10 * 0.2) / 110)


def test_what_one_or_two_episodes_show_is_never_proven() -> None:
    [found] = judge([[Stratum(2, 0, 2, 500)]])
    assert found.verdict == "unproven"
    assert found.q_value == found.p_value == 1


def test_patterns_that_cannot_become_significant_do_not_weaken_those_that_can() -> None:
    strong = [Stratum(12, 0, 30, 30)]
    hopeless = [[Stratum(2, 1, 30, 30)]] * 500
    [alone] = judge([strong])
    together = judge([strong, *hopeless])[0]
    assert together.q_value == pytest.approx(alone.q_value)
    assert together.verdict == "helps"


@pytest.mark.parametrize("base", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("n", [3, 10, 50])
def test_the_interval_holds_the_rate_as_often_as_it_says(base: float, n: int) -> None:
    """Over rates as the prior expects them. For a single rate coverage swings, as it does for all such intervals."""
    rng = np.random.default_rng(n)
    rates = rng.beta(max(0.5, 2 * base), max(0.5, 2 * (1 - base)), 20_000)
    intervals = [beta_interval(successes, n - successes, base, 2.0) for successes in range(n + 1)]
    lows, highs = np.array([interval[1:] for interval in intervals])[rng.binomial(n, rates)].T
    assert np.mean((lows <= rates) & (rates <= highs)) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("n", [3, 10, 50, 400])
def test_the_interval_holds_a_rate_that_is_the_base_rate(rate: float, n: int) -> None:
    assert covered(rate, n, base=rate) >= 0.88


@pytest.mark.parametrize(("rate", "base"), [(0.9, 0.5), (0.2, 0.5), (0.7, 0.4)])
def test_the_interval_holds_a_rate_far_from_the_base_rate_once_there_is_evidence(rate: float, base: float) -> None:
    assert covered(rate, 30, base=base) >= 0.90
    assert covered(rate, 300, base=base) >= 0.93


def covered(rate: float, n: int, base: float) -> float:
    """How probable it is that the interval from `n` episodes holds the true rate: every outcome by its weight."""
    share = 0.0
    for successes in range(n + 1):
        _, low, high = beta_interval(successes, n - successes, base, 2.0)
        if low <= rate <= high:
            share += float(stats.binom.pmf(successes, n, rate))
    return share


def test_five_thousand_patterns_are_judged_in_an_instant() -> None:
    rng = np.random.default_rng(0)
    patterns = []
    for _ in range(5_000):
        strata = []
        for _ in range(3):
            total = int(rng.integers(200, 400))
            group_successes, n = int(total * rng.uniform(0.2, 0.9)), int(min(total, 1 + rng.pareto(1.0) * 5))
            successes = int(rng.hypergeometric(group_successes, total - group_successes, n))
            strata.append(Stratum(successes, n - successes, group_successes, total - group_successes))
        patterns.append(strata)
    judge(patterns[:10])
    fastest = min(timed(patterns) for _ in range(3))
    # 15 ms on an idle machine; the limit leaves room for one that is not
    assert fastest < 0.25


def timed(patterns: list[list[Stratum]]) -> float:
    begin = time.perf_counter()
    judge(patterns)
    return time.perf_counter() - begin
