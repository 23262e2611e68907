"""What the answers say: shares and means with intervals, tests between methods, agreement of readers.

The unit is the reader, whose answers are alike: intervals of means are clustered by reader, Wilcoxon's test
takes one difference a reader, the mixed model has readers as random effects. Exact intervals and χ² take
answers as independent, which holds for readers who guess.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffexplain.errors import RunError
from diffexplain.statistics import benjamini_hochberg, exact_interval, mean_effect
from diffexplain.study.answers import read_answers
from diffexplain.study.records import PAIR, Study
from diffexplain.study.tallies import People, Tally, frame, tallies

Name = Literal["exact binomial", "χ² against equal shares", "χ² between methods", "Wilcoxon", "mixed model"]

FEWEST = 6  # readers below whom Wilcoxon's p cannot pass 0.05
RESAMPLES = 999


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean score or a share with its 95 % interval."""

    ask: str
    method: str
    value: float
    low: float
    high: float
    answers: int
    readers: int
    chance: float = math.nan  # what guessing gives, where there is a right answer


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test says. `difference`: first method minus second (or value minus chance), in points."""

    test: Name
    ask: str
    methods: tuple[str, ...]
    p: float
    n: int  # readers, or answers where the test takes those
    statistic: float = math.nan
    difference: float = math.nan
    low: float = math.nan  # 95 %; nan where the test gives none
    high: float = math.nan
    q: float = math.nan  # Benjamini–Hochberg over all findings of this test


@dataclass(frozen=True, slots=True)
class Agreement:
    """Fleiss' κ with a 95 % interval over items."""

    ask: str
    kappa: float
    low: float
    high: float
    items: int
    raters: float  # mean number an item


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each choice was made."""

    ask: str
    method: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that was found."""

    title: str
    methods: tuple[str, ...]
    people: People
    figures: tuple[Figure, ...]
    findings: tuple[Finding, ...]
    agreements: tuple[Agreement, ...]
    counts: tuple[Counts, ...]
    notes: tuple[str, ...]
    rows: tuple[Tally, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values without the single answers; nan is None."""
        return {key: _plain(value) for key, value in asdict(self).items() if key != "rows"}

    def to_frame(self) -> Any:
        """One row an answer, as a pandas table."""
        return frame(self.rows)


def analyse_study(folder: str | Path, files: Sequence[str | Path] = ()) -> Analysis:
    """Analyse a study's answers: those that its server kept, and `files` that readers saved.

    Raises InputError for a file that is none of this study, RunError without a study or answers.
    """
    study = Study.read(folder)
    people, rows = tallies(study, *read_answers(folder, files))
    if not people.began:
        raise RunError(f"study {str(folder)!r}: nobody answered yet: serve it, or name the readers' files")
    return analysed(study, people, rows)


def analysed(study: Study, people: People, rows: Sequence[Tally], *, mixed: bool = True) -> Analysis:
    """The same from tallied answers; `mixed=False` leaves out the mixed models, which take longest."""
    by_ask: dict[str, list[Tally]] = {}
    for row in rows:
        by_ask.setdefault(row.ask, []).append(row)
    figures, tests, agreements, counts, notes = [], [], [], [], []
    for ask, of in by_ask.items():
        methods = {m: [t for t in of if t.method == m] for m in sorted({t.method for t in of})}
        figures += [_figure(ask, m, t) for m, t in methods.items() if ask != "share"]
        counts += [Counts(ask, m, _counted(t)) for m, t in methods.items() if ask == "share"]
        tests += _TESTS[of[0].kind](ask, of, methods)
        tests += [_mixed(ask, pair, both) for pair, both in _pairs(of, methods) if mixed]
        agreements.append(_agreement(ask, of))
    if people.inattentive:
        notes.append(f"{people.inattentive} readers failed an attention check and are not counted")
    if people.counted < FEWEST:
        notes.append(f"{people.counted} readers: Wilcoxon's test needs {FEWEST} to find anything at 0.05")
    return Analysis(study.title, study.methods, people, tuple(figures), _corrected(tests), tuple(agreements),
                    tuple(counts), tuple(notes), tuple(rows))  # fmt: skip


# -- figures ------------------------------------------------------------------------------------------


def _figure(ask: str, method: str, rows: Sequence[Tally]) -> Figure:
    readers = len({t.reader for t in rows})
    scores = [t.score for t in rows]
    if rows[0].kind == "attribute":
        low, high = exact_interval(int(sum(scores)), len(rows))
        return Figure(ask, method, float(np.mean(scores)), low, high, len(rows), readers, _chance(rows))
    found = mean_effect(scores, [t.reader for t in rows])
    return Figure(ask, method, found.mean, found.low, found.high, len(rows), readers)


def _chance(rows: Sequence[Tally]) -> float:
    return float(np.mean([1 / t.choices for t in rows]))


def _counted(rows: Iterable[Tally]) -> dict[str, int]:
    found: dict[tuple[int, str], int] = {}
    for t in rows:
        found[t.category, t.choice] = found.get((t.category, t.choice), 0) + 1
    return {choice: found[category, choice] for category, choice in sorted(found)}


# -- tests --------------------------------------------------------------------------------------------

_Methods = dict[str, list[Tally]]


def _attribute_tests(ask: str, rows: Sequence[Tally], methods: _Methods) -> list[Finding]:
    found = [_binomial(ask, m, t) for m, t in methods.items()]
    if len(methods) > 1:
        table = [[sum(t.score == s for t in of) for s in (1, 0)] for of in methods.values()]
        found.append(_independence(ask, tuple(methods), table))
    return found + _between(ask, rows, methods)


def _rating_tests(ask: str, rows: Sequence[Tally], methods: _Methods) -> list[Finding]:
    return _between(ask, rows, methods)


def _side_tests(ask: str, rows: Sequence[Tally], methods: _Methods) -> list[Finding]:
    """The scores are differences already: against 0."""
    means = {pair: _means((t.reader, t.score) for t in of) for pair, of in methods.items()}
    return [_wilcoxon(ask, tuple(pair.split(PAIR)), list(of.values())) for pair, of in means.items()]


def _share_tests(ask: str, rows: Sequence[Tally], methods: _Methods) -> list[Finding]:
    from scipy.stats import chisquare

    table = [np.bincount([t.category for t in of], minlength=rows[0].choices) for of in methods.values()]
    found = []
    for method, counts in zip(methods, table, strict=True):
        statistic, p = map(float, chisquare(counts))
        found.append(Finding("χ² against equal shares", ask, (method,), p, int(counts.sum()), statistic))
    if len(methods) > 1:
        found.append(_independence(ask, tuple(methods), table))
    return found


_TESTS: dict[str, Callable[[str, Sequence[Tally], _Methods], list[Finding]]] = {
    "attribute": _attribute_tests,
    "share": _share_tests,
    "rating": _rating_tests,
    "side": _side_tests,
}


def _binomial(ask: str, method: str, rows: Sequence[Tally]) -> Finding:
    """Right answers against guessing; each tail doubled, so that p and the exact interval agree."""
    from scipy.stats import binom

    n, right, chance = len(rows), int(sum(t.score for t in rows)), _chance(rows)
    p = min(1.0, 2 * float(min(binom.cdf(right, n, chance), binom.sf(right - 1, n, chance))))
    low, high = exact_interval(right, n)
    return Finding(
        "exact binomial", ask, (method,), p, n, right, right / n - chance, low - chance, high - chance
    )


def _independence(ask: str, methods: tuple[str, ...], table: Sequence[Any]) -> Finding:
    """χ² of choices between methods, without columns that nobody chose."""
    from scipy.stats import chi2_contingency

    counts = np.asarray(table)
    n, counts = int(counts.sum()), counts[:, counts.sum(0) > 0]
    statistic, p = (0.0, 1.0) if counts.shape[1] < 2 else chi2_contingency(counts, correction=False)[:2]
    return Finding("χ² between methods", ask, methods, float(p), n, float(statistic))


def _pairs(rows: Sequence[Tally], methods: _Methods) -> list[tuple[tuple[str, str], list[Tally]]]:
    """Pairs of methods with their scored answers, over the units that both have."""
    found = []
    for pair in combinations(methods, 2):
        shared = {t.unit for t in methods[pair[0]]} & {t.unit for t in methods[pair[1]]}
        both = [t for t in rows if t.unit in shared and t.method in pair]
        if both and rows[0].kind in ("attribute", "rating"):
            found.append((pair, both))
    return found


def _between(ask: str, rows: Sequence[Tally], methods: _Methods) -> list[Finding]:
    return [_wilcoxon(ask, pair, _differences(pair, both)) for pair, both in _pairs(rows, methods)]


def _differences(pair: tuple[str, str], rows: Sequence[Tally]) -> list[float]:
    """Each reader's mean of the one method less that of the other; scores less their unit's mean."""
    unit = _means((t.unit, t.score) for t in rows)
    first, second = (_means((t.reader, t.score - unit[t.unit]) for t in rows if t.method == m) for m in pair)
    return [first[r] - second[r] for r in sorted(first.keys() & second.keys())]


def _wilcoxon(ask: str, methods: tuple[str, ...], differences: Sequence[float]) -> Finding:
    """Signed ranks of the readers' differences; the interval is of their mean, clustered by reader."""
    from scipy.stats import wilcoxon

    rounded = np.round(np.asarray(differences, dtype=np.float64), 9)  # so that equal ones tie
    mean, n = mean_effect(rounded, np.arange(len(rounded))), len(rounded)
    statistic, p = (math.nan, 1.0) if not rounded.any() else wilcoxon(rounded)[:2]
    return Finding("Wilcoxon", ask, methods, float(p), n, float(statistic), mean.mean, mean.low, mean.high)


def _mixed(ask: str, methods: tuple[str, str], rows: Sequence[Tally]) -> Finding:
    """Linear mixed model: score ~ method + unit, readers as random intercepts, by REML.

    Units are fixed, since both methods are seen on each. p and interval by Student's t with the degrees of
    freedom within readers (n − readers − units): Wald's z finds too much among few readers.
    """
    import statsmodels.formula.api as smf
    from scipy.special import stdtr, stdtrit

    data, n = frame(rows), len(rows)
    data["first"] = (data["method"] == methods[0]).astype(float)
    freedom = n - data["reader"].nunique() - data["unit"].nunique()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a variance of 0 lies at the border: no fault
            model = smf.mixedlm("score ~ first + C(unit)", data, groups=data["reader"])
            fit = model.fit(reml=True, method="powell")  # gradients fail where the variance nears 0
        effect, error = float(fit.params["first"]), float(fit.bse["first"])
    except (ValueError, np.linalg.LinAlgError):
        effect = error = math.nan
    if not (freedom > 0 and error > 0):  # too few answers, or all alike
        return Finding("mixed model", ask, methods, math.nan, n)
    t, reach = effect / error, float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(t)))
    return Finding("mixed model", ask, methods, p, n, t, effect, effect - reach, effect + reach)


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for name, value in values:
        found.setdefault(name, []).append(value)
    return {name: float(np.mean(of)) for name, of in found.items()}


def _corrected(found: Sequence[Finding]) -> tuple[Finding, ...]:
    qs = [math.nan] * len(found)
    for name in {f.test for f in found}:
        of = [i for i, f in enumerate(found) if f.test == name]
        for i, q in zip(of, benjamini_hochberg([found[i].p for i in of]), strict=True):
            qs[i] = float(q)
    return tuple(replace(f, q=q) for f, q in zip(found, qs, strict=True))


# -- agreement ----------------------------------------------------------------------------------------


def fleiss_kappa(table: Any) -> float:
    """Fleiss' κ of a table (items, categories) of counts; items may have different numbers of raters.

    Agreement within an item is Σ n_ij (n_ij − 1) / n_i (n_i − 1), chance is from all answers pooled (Fleiss
    1971, with n_i for n). Items with one rater say nothing and are left out. nan when all chose alike.
    """
    counts = np.asarray(table, dtype=np.float64)
    counts = counts[counts.sum(1) > 1]
    return float(_kappas(counts, np.arange(len(counts))[None])[0])


def _kappas(counts: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """κ of each draw of items: (draws, items) -> (draws,)."""
    n = counts.sum(1)
    within = (counts * (counts - 1)).sum(1) / (n * (n - 1))  # (items,)
    if not len(counts):
        return np.full(len(drawn), math.nan)
    chance = ((counts[drawn].sum(1) / n[drawn].sum(1, keepdims=True)) ** 2).sum(1)  # (draws,)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (within[drawn].mean(1) - chance) / (1 - chance), math.nan)


def _agreement(ask: str, rows: Sequence[Tally]) -> Agreement:
    items = {item: i for i, item in enumerate(dict.fromkeys((t.unit, t.method) for t in rows))}
    table = np.zeros((len(items), max(t.choices for t in rows)))
    for t in rows:
        table[items[t.unit, t.method], t.category] += 1
    table = table[table.sum(1) > 1]
    draws = np.random.default_rng(len(table)).integers(max(1, len(table)), size=(RESAMPLES, len(table)))
    known = [k for k in _kappas(table, draws) if math.isfinite(k)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (math.nan, math.nan)
    raters = float(table.sum(1).mean()) if len(table) else math.nan
    return Agreement(ask, fleiss_kappa(table), float(low), float(high), len(table), raters)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
