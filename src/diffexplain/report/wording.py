"""Numbers and sentences of the page: plain text that cites the rows it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isinf
from typing import NamedTuple

from diffexplain.records import Effect, Request, Result
from diffexplain.report.rows import ALPHA, Row

NOTHING = "–"
MINUS = "−"
_SPACE = "\N{NO-BREAK SPACE}"


class Part(NamedTuple):
    """A piece of a sentence; with an anchor, a citation of that row."""

    text: str
    anchor: str = ""


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign: "+2.31", "−0.40", "0.00"; "–" for nan."""
    if isinf(value):
        return "+∞" if value > 0 else MINUS + "∞"
    if value != value:
        return NOTHING
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else MINUS) + text


def plain(value: float, digits: int = 3) -> str:
    """A number with fixed digits; "–" for nan."""
    return f"{value:.{digits}f}".replace("-", MINUS) if isfinite(value) else NOTHING


def percent(value: float) -> str:
    """A share as "57 %"; "–" for nan."""
    return f"{100 * value:.0f}{_SPACE}%" if isfinite(value) else NOTHING


def points(value: float) -> str:
    """A change of probability in percentage points, "+34 pp"; one digit more below ten."""
    if not isfinite(value):
        return NOTHING
    return signed(100 * value, 1 if abs(value) < 0.0995 else 0) + f"{_SPACE}pp"


def chance(value: float) -> str:
    """A p or q, never "0"."""
    if not isfinite(value):
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float, high: float) -> str:
    """The two ends, or "–"."""
    return NOTHING if low != low or high != high else f"{signed(low)} to {signed(high)}"


def span(low: float, high: float) -> str:
    """The two ends of an interval of shares, or "–"."""
    return NOTHING if low != low or high != high else f"{percent(low)} to {percent(high)}"


def count(value: float) -> str:
    """A whole number with thousands separated."""
    return f"{value:,.0f}" if isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """Time for people: "96 s", "12 min 5 s", "2 h 3 min"."""
    if not isfinite(seconds):
        return NOTHING
    whole = round(seconds)
    if whole < 120:
        return f"{whole}{_SPACE}s" if seconds >= 10 else f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def sign(direction: str) -> str:
    """The sign "+" to add, "−" to remove; a joint direction gives one each."""
    return " ".join(MINUS if part == "remove" else "+" for part in direction.split(" + "))


def lead(concept: str) -> str:
    """The path of a concept's parent with its slash, "" for a root."""
    return concept[: len(concept) - len(concept.rpartition("/")[2])]


def badge(probability: float, score: float) -> str:
    """What stands on a picture: the target's probability, or the score where there is none."""
    return percent(probability) if isfinite(probability) else signed(score, 1)


def flipped(example: Effect) -> bool:
    """Whether the decision changed; never without probabilities."""
    known = isfinite(example.probability_before) and isfinite(example.probability_after)
    return known and example.flipped


def sides(request: Request) -> tuple[str, str]:
    """The two ends of the axis: away from the target, and the target."""
    return request.versus or f"not {request.target}", request.target


def question(request: Request) -> str:
    """What was asked, as a question."""
    against = f" rather than {request.versus}" if request.versus else ""
    return f"Which meanings drive {request.classifier} towards {request.target}{against}?"


def answer(result: Result, ranked: Sequence[Row]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The answer in two sentences, made from the rows alone."""
    measured = [row for row in ranked if row.measured]
    found = [row for row in measured if row.found]
    if found:
        return _first(result.request, found[0]), _second(found, len(measured))
    if measured:
        return _undetected(result.request, len(measured)), _largest(measured[0])
    return _unmeasured(result)


def _first(request: Request, top: Row) -> tuple[Part, ...]:
    r = top.result
    where = "towards" if r.effect > 0 else "away from"
    inside = f", or {points(r.effect_probability)} in probability" if isfinite(r.effect_probability) else ""
    return (
        Part(_act(top).capitalize() + " "),
        Part(r.concept, top.anchor),
        Part(
            f" moves {request.classifier} most: {signed(r.effect)} log-odds {where} {request.target}{inside} "
            f"(95{_SPACE}% interval {interval(r.low, r.high)}, {_q(r.q)}, {_images(r.images)})."
        ),
    )


def _second(found: Sequence[Row], measured: int) -> tuple[Part, ...]:
    share = f"{len(found)} of the {measured} measured questions show an effect at q{_SPACE}<{_SPACE}{ALPHA}."
    if len(found) == 1:
        return (Part(f"It is the only effect at q{_SPACE}<{_SPACE}{ALPHA} among {_asked(measured)}."),)
    parts = [Part("Next comes "), *_cited(found[1])]
    up = found[0].result.effect > 0
    other = next((row for row in found[2:] if (row.result.effect > 0) != up), None)
    if (found[1].result.effect > 0) != up:
        parts[0] = Part("Next, the other way, comes ")
    elif other:
        parts += [Part("; strongest the other way is "), *_cited(other)]
    return (*parts, Part("; " + share))


def _cited(row: Row) -> tuple[Part, ...]:
    r = row.result
    return (
        Part(_act(row) + " "),
        Part(r.concept, row.anchor),
        Part(f" ({signed(r.effect)}, {interval(r.low, r.high)})"),
    )


def _undetected(request: Request, measured: int) -> tuple[Part, ...]:
    return (
        Part(
            f"Nothing here moves {request.classifier} detectably: of {_asked(measured)}, none shows an "
            f"effect on {request.target} at q{_SPACE}<{_SPACE}{ALPHA}."
        ),
    )


def _largest(top: Row) -> tuple[Part, ...]:
    r = top.result
    return (
        Part(f"The largest estimate is {_act(top)} "),
        Part(r.concept, top.anchor),
        Part(
            f" at {signed(r.effect)} log-odds (95{_SPACE}% interval {interval(r.low, r.high)}, {_q(r.q)}, "
            f"{_images(r.images)}); effects too small for these images to show are not excluded."
        ),
    )


def _unmeasured(result: Result) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    asked = len(result.concepts)
    if not asked:
        return (Part("Nothing was asked, so there is no answer."),), (Part("The corpus gave no question."),)
    out = sum(c.status == "ruled out" for c in result.concepts)
    none = sum(c.status == "not eligible" for c in result.concepts)
    return (
        (
            Part(
                f"No effect on {result.request.target} could be estimated for "
                f"{result.request.classifier}: no question out of {asked} was measured."
            ),
        ),
        (Part(f"{out} ruled out early, {none} without an eligible image; ask again with more images."),),
    )


def _act(row: Row) -> str:
    return "removing" if row.result.direction == "remove" else "adding"


def _q(value: float) -> str:
    text = chance(value)
    return f"q{_SPACE}{text}" if text.startswith("<") else f"q{_SPACE}={_SPACE}{text}"


def _images(number: int) -> str:
    return f"{number} image" if number == 1 else f"{number} images"


def _asked(number: int) -> str:
    return "1 measured question" if number == 1 else f"{number} measured questions"
