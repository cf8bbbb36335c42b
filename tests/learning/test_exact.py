"""The exact tests against scipy, statsmodels, and plain enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memory_mcp.learning.exact import fisher_exact, stratified

Table = tuple[int, int, int, int]


@st.composite
def tables(draw: st.DrawFn, largest: int = 80) -> Table:
    """`(successes, n, group_successes, total)` of a table that can be, edges included."""
    total = draw(st.integers(1, largest))
    group_successes = draw(st.integers(0, total))
    n = draw(st.integers(1, total))
    least, most = max(0, n - (total - group_successes)), min(n, group_successes)
    return draw(st.integers(least, most)), n, group_successes, total


def cells(table: Table) -> list[list[int]]:
    successes, n, group_successes, total = table
    return [[successes, n - successes], [group_successes - successes, total - n - group_successes + successes]]


def enumerated(strata: list[Table]) -> tuple[float, float]:
    """`(p-value, least p-value that the margins allow)` by adding up all outcomes."""
    distribution, lowest, observed = np.ones(1), 0, 0
    for successes, n, group_successes, total in strata:
        least, most = max(0, n - (total - group_successes)), min(n, group_successes)
        outcomes = np.arange(least, most + 1)
        distribution = np.convolve(distribution, stats.hypergeom.pmf(outcomes, total, group_successes, n))
        lowest, observed = lowest + least, observed + successes
    p_values = [distribution[distribution <= here * (1 + 1e-7)].sum() for here in distribution]
    return p_values[observed - lowest], min(p_values[0], p_values[-1])


def columns(rows: list[Table]) -> list[np.ndarray]:
    return list(np.array(rows, np.int64).T)


@given(st.lists(tables(), min_size=1, max_size=8))
def test_fisher_exact_agrees_with_scipy(found: list[Table]) -> None:
    expected = [stats.fisher_exact(cells(table)).pvalue for table in found]
    np.testing.assert_allclose(fisher_exact(*columns(found)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("total", [1_000, 100_000])
def test_fisher_exact_agrees_with_scipy_on_large_counts(total: int) -> None:
    rng = np.random.default_rng(total)
    found = []
    for _ in range(30):
        group_successes, n = (int(rng.integers(1, total)) for _ in range(2))
        found.append((int(rng.hypergeometric(group_successes, total - group_successes, n)), n, group_successes, total))
    expected = [stats.fisher_exact(cells(table)).pvalue for table in found]
    np.testing.assert_allclose(fisher_exact(*columns(found)), expected, rtol=1e-6)


@settings(max_examples=200)
@given(st.lists(tables(40), min_size=1, max_size=5))
def test_strata_are_tested_as_by_adding_up_all_their_outcomes(strata: list[Table]) -> None:
    p_value, least = enumerated(strata)
    owners, found = stratified(np.zeros(len(strata), np.int64), *columns(strata), 0.05)
    assert bool(len(owners)) == (least <= 0.05)
    # what cannot be significant any more is left at the approximation
    if len(owners) and (found[0] < 0.2 or len(strata) == 1):
        assert found[0] == pytest.approx(p_value, rel=1e-6, abs=1e-9) or found[0] > 0.25


@settings(max_examples=100)
@given(st.lists(st.lists(tables(30), min_size=1, max_size=4), min_size=1, max_size=6))
def test_many_patterns_at_once_are_tested_as_each_of_them_alone(patterns: list[list[Table]]) -> None:
    owner = np.repeat(np.arange(len(patterns)), [len(strata) for strata in patterns])
    owners, together = stratified(owner, *columns([table for strata in patterns for table in strata]), 0.2)
    alone = {}
    for number, strata in enumerate(patterns):
        tested, found = stratified(np.zeros(len(strata), np.int64), *columns(strata), 0.2)
        if len(tested):
            alone[number] = found[0]
    assert owners.tolist() == list(alone)
    np.testing.assert_allclose(together, list(alone.values()), rtol=1e-9, atol=1e-14)


def test_large_strata_agree_with_the_mantel_haenszel_test_of_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import StratifiedTable

    rng = np.random.default_rng(4)
    for _ in range(20):
        strata = []
        for _ in range(3):
            total = int(rng.integers(8_000, 12_000))
            group_successes, n = int(total * rng.uniform(0.3, 0.7)), int(total * rng.uniform(0.2, 0.5))
            successes = int(rng.hypergeometric(group_successes, total - group_successes, n)) + 30
            strata.append((successes, n, group_successes, total))
        reference = StratifiedTable([np.array(cells(table)) for table in strata]).test_null_odds(correction=True)
        _, found = stratified(np.zeros(3, np.int64), *columns(strata), 0.05)
        assert found[0] == pytest.approx(reference.pvalue, rel=1e-6)


def test_exact_and_approximate_tests_meet_where_one_takes_over_from_the_other() -> None:
    from statsmodels.stats.contingency_tables import StratifiedTable

    rng = np.random.default_rng(5)
    for _ in range(40):
        strata = []
        for _ in range(3):
            total = int(rng.integers(1_400, 1_600))
            group_successes, n = int(total * rng.uniform(0.3, 0.7)), int(total * 0.5)
            successes = int(rng.hypergeometric(group_successes, total - group_successes, n)) + 15
            strata.append((successes, n, group_successes, total))
        reference = StratifiedTable([np.array(cells(table)) for table in strata]).test_null_odds(correction=True)
        _, found = stratified(np.zeros(3, np.int64), *columns(strata), 0.05)
        assert found[0] == pytest.approx(reference.pvalue, rel=0.2)


def test_rare_failures_in_several_strata_are_not_taken_for_discoveries() -> None:
    # two failures in three episodes where two in a hundred fail: the normal approximation says 3e-9
    strata = [(1, 2, 98, 100), (0, 1, 49, 50)]
    _, found = stratified(np.zeros(2, np.int64), *columns(strata), 0.05)
    assert found[0] == pytest.approx(enumerated(strata)[0], rel=1e-6)
    assert found[0] > 1e-4


def test_a_group_that_always_succeeds_or_always_fails_teaches_nothing() -> None:
    for strata in ([(5, 5, 9, 9)], [(0, 5, 0, 9)], [(3, 5, 3, 5), (2, 2, 2, 2)]):
        owners, found = stratified(np.zeros(len(strata), np.int64), *columns(strata), 0.05)
        assert len(owners) == len(found) == 0
