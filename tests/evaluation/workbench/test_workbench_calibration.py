"""The workbench is hard enough to need advice, and easy enough for advice to help."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_mcp.evaluation.workbench import calibration
from memory_mcp.evaluation.workbench.families import FAMILIES


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return calibration.measure(seed=11, count=10 * len(FAMILIES))


def test_the_plain_agent_succeeds_in_a_quarter_to_less_than_half_of_the_tasks(measured: dict[str, Any]) -> None:
    assert 0.25 <= measured["plain"] <= 0.45


def test_the_oracle_as_a_plan_nearly_always_succeeds(measured: dict[str, Any]) -> None:
    assert measured["oracle_plan"] >= 0.97


def test_one_earlier_success_of_the_same_source_is_a_good_plan(measured: dict[str, Any]) -> None:
    assert measured["precedent_plan"] >= 0.9


def test_a_plan_of_another_source_does_little_harm(measured: dict[str, Any]) -> None:
    assert measured["wrong_oracle_plan"] >= measured["plain"] - 0.06
    assert measured["wrong_precedent_plan"] >= measured["plain"] - 0.06


def test_lessons_after_failures_help_as_much_as_a_plan(measured: dict[str, Any]) -> None:
    assert measured["lessons"] >= 0.95


def test_the_measurement_is_printed_as_json_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["calibration", "--tasks", "3", "--seeds", "1", "2", "--step-budget", "12"])
    monkeypatch.setattr(calibration, "find_precedents", lambda *_, **__: calibration.oracle_plans())
    calibration.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["seed"], line["tasks"], line["step_budget"]) for line in lines] == [(1, 3, 12), (2, 3, 12)]
