"""Fusion of the legs, and the bounded moves that outcome, age, place and earned credit make."""

from __future__ import annotations

from dataclasses import dataclass

# weights of the legs; a sum of normalised scores keeps score gaps that reciprocal ranks forget
# (LoCoMo recall@10, same inputs: sum .654, reciprocal ranks .565; with .4 or .5 for the words .684 and .674)
LEXICAL_WEIGHT = 0.4
SEMANTIC_WEIGHT = 0.6

DOMAIN_BOOST = 0.08
TASK_TYPE_BOOST = 0.04
RECENCY_BOOST = 0.03
OUTCOME_BOOST = 0.02
CREDIT_BOUND = 0.05

HALF_LIFE_DAYS = 30.0
_DAY = 86_400 * 1_000_000
# pseudo-counts of the prior for earned credit: a memory moves only after it was used a few times
_CREDIT_PRIOR = 4.0


@dataclass(frozen=True, slots=True)
class Place:
    """What of an episode can move it besides its text."""

    domain: str
    task_type: str
    outcome: str
    at: int


@dataclass(frozen=True, slots=True)
class Boosts:
    """What moved a hit besides its relevance; each part is bounded."""

    domain: float = 0.0
    task_type: float = 0.0
    recency: float = 0.0
    outcome: float = 0.0
    credit: float = 0.0

    @property
    def total(self) -> float:
        return self.domain + self.task_type + self.recency + self.outcome + self.credit


@dataclass(frozen=True, slots=True)
class Credit:
    """How episodes ended in which a memory was shown, and in which it was also used."""

    shown: float = 0.0
    shown_successes: float = 0.0
    used: float = 0.0
    used_successes: float = 0.0

    def move(self) -> float:
        """Between -CREDIT_BOUND and +CREDIT_BOUND: the mean of a Beta posterior around one half."""
        mean = (self.used_successes + _CREDIT_PRIOR / 2) / (self.used + _CREDIT_PRIOR)
        return CREDIT_BOUND * (2 * mean - 1)


def normalised(scores: dict[str, float]) -> dict[str, float]:
    """Scores scaled to 0..1 over the candidates (min-max); a single candidate gets 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high == low:
        return dict.fromkeys(scores, 1.0)
    return {name: (score - low) / (high - low) for name, score in scores.items()}


def fuse(words: dict[str, float], meaning: dict[str, float]) -> dict[str, tuple[float, float, float]]:
    """`{id: (relevance, words, meaning)}` with all parts in 0..1; a leg without any score leaves the other alone."""
    # a candidate that one leg did not find stands where that leg's worst candidate stands
    from_words, from_meaning = normalised(words), normalised(meaning)
    if not from_words or not from_meaning:
        return {
            name: (score, from_words.get(name, 0.0), from_meaning.get(name, 0.0))
            for name, score in (from_words or from_meaning).items()
        }
    fused = {}
    for name in {*from_words, *from_meaning}:
        lexical, semantic = from_words.get(name, 0.0), from_meaning.get(name, 0.0)
        fused[name] = (LEXICAL_WEIGHT * lexical + SEMANTIC_WEIGHT * semantic, lexical, semantic)
    return fused


def boosts(place: Place, domain: str, task_type: str, credit: Credit | None, now: int) -> Boosts:
    """The moves for one episode."""
    age_days = max(0, now - place.at) / _DAY
    return Boosts(
        domain=DOMAIN_BOOST if domain and place.domain == domain else 0.0,
        task_type=TASK_TYPE_BOOST if task_type and place.task_type == task_type else 0.0,
        recency=RECENCY_BOOST * 0.5 ** (age_days / HALF_LIFE_DAYS),
        outcome=OUTCOME_BOOST if place.outcome == "success" else 0.0,
        credit=credit.move() if credit else 0.0,
    )
