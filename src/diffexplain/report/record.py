"""The run's own record in words: what was asked, what it cost, how it was measured, what limits it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from diffexplain.records import Request, Result
from diffexplain.report import wording
from diffexplain.report.rows import ALPHA, FEW_SUCCEEDED

Fact = tuple[str, str]

#: images below which Student's t gives the interval, and the bootstrap from there on (statistics.FEWEST).
_BOOTSTRAP = 8

CITATION = """@software{{diffexplain,
  title = {{diffexplain: which meanings drive an image classifier, measured by editing pictures}},
  version = {{{version}}},
  license = {{Apache-2.0}},
}}
@inproceedings{{kazimi2025diffex,
  title = {{Explaining in Diffusion: Explaining a Classifier with Diffusion Semantics}},
  author = {{Kazimi, Tahira and Allada, Ritika and Yanardag, Pinar}},
  booktitle = {{CVPR}}, year = {{2025}}, eprint = {{2412.18604}},
}}"""


def asked(result: Result) -> list[Fact]:
    """What was asked of what, with the models' hashes where the run knows them."""
    request = result.request
    statuses = [c.status for c in result.concepts]
    hashes = request.settings.get("hashes", {})

    def model(role: str, name: str) -> str:
        return f"{name} (hash {hashes[role]})" if hashes.get(role) else name

    facts = [
        ("Classifier", model("classifier", request.classifier)),
        ("Target", request.target + (f" against {request.versus}" if request.versus else "")),
        ("Mean score of the reconstructions", wording.signed(result.score_mean)),
        ("Corpus", f"{request.corpus} (hash {request.corpus_hash})"),
        ("Editor", model("editor", request.editor)),
        *([("Screening editor of the race", model("screen", request.screen))] if request.screen else []),
        ("Judge of presence", model("judge", request.judge)),
        ("Segmenter", model("segmenter", request.segmenter) if request.segmenter else "none"),
        ("Images", wording.count(len(request.images))),
        ("Seeds per image", wording.count(request.seeds)),
        ("Budget", "none" if request.budget is None else f"{wording.count(request.budget)} edits"),
    ]
    if agreed := result.agreement:
        told = (
            f"over {agreed.questions} questions, on other pictures: correlation "
            f"{wording.plain(agreed.correlation, 2)}, of ranks {wording.plain(agreed.rank_correlation, 2)}, "
            f"same sign {wording.plain(agreed.same_sign, 2)}"
        )
        facts.append(("Screened against confirmed effects", told))
    counted = [f"{statuses.count(s)} {s}" for s in ("measured", "ruled out", "not eligible")]
    return [*facts, ("Questions", f"{len(statuses)}: " + ", ".join(counted))]


def spent(result: Result) -> list[Fact]:
    """Cost, and how far inversion alone moved the pictures."""
    cost, drift = result.cost, result.drift
    return [
        ("Time", wording.duration(cost.seconds)),
        ("Edits", wording.count(cost.edits)),
        ("Inversions", wording.count(cost.inversions)),
        ("UNet evaluations", wording.count(cost.evaluations)),
        ("Drift of the pictures", f"{wording.plain(255 * drift.pixels, 1)} of 255 grey levels"),
        ("Drift of the score", f"{wording.plain(drift.score, 2)} log-odds"),
        ("Drift of the score, signed", f"{wording.signed(drift.score_signed)} log-odds"),
    ]


def settings(request: Request) -> list[Fact]:
    """Every setting of the search and of the models."""
    return [*_flat(request.search, "search"), *_flat(request.settings, "settings")]


def methods(result: Result) -> list[str]:
    """What a paper's methods section would say of this run, from its record alone."""
    r, cost = result.request, result.cost
    measured = [c for c in result.concepts if c.status == "measured"]
    against = f" against {r.versus!r}" if r.versus else ""
    seeds = "one noise" if r.seeds == 1 else f"{r.seeds} noises"
    regions = f" and the regions of change came from {r.segmenter}" if r.segmenter else ""
    return [
        f"{_many(len(r.images), 'picture')} (shown to the classifier as the editor reconstructs them) were "
        f"edited with {r.editor}, {seeds} each, along the corpus {r.corpus} ({r.corpus_hash}). The score is "
        f"the log-odds of {r.target!r}{against} under {r.classifier}. {r.judge} judged whether each edit "
        f"took{regions}. {_search(r)}",
        f"The effect of a question (a concept in a direction) is the mean over pictures of the score’s "
        f"change from the reconstruction to the edit, over pictures where the concept was absent (to add it) "
        f"or present (to remove it). Intervals are 95 %, by picture: {_intervals(measured)}. p is that of a "
        f"one-sample t test on the pictures’ means, q is p after Benjamini–Yekutieli over the "
        f"{_many(len(measured), 'measured question')}; a discovery has q < {ALPHA}.",
        f"The run took {wording.count(cost.edits)} edits and {wording.count(cost.evaluations)} evaluations "
        f"of the UNet in {wording.duration(cost.seconds)}.",
    ]


def limits(result: Result) -> list[str]:
    """The limits that apply to this run, not all that could."""
    r = result.request
    measured = [c for c in result.concepts if c.status == "measured"]
    failed = sum(c.success_rate < FEW_SUCCEEDED for c in measured)
    out = sum(c.status == "ruled out" for c in result.concepts)
    said = [
        f"Only what the corpus {r.corpus} names can be found; another cause of the score stays unseen.",
        f"The effect is that of {r.editor}’s edit: what it changes along with the concept is counted too.",
        f"Whether an edit took is {r.judge}’s opinion.",
    ]
    if r.segmenter is None:
        said.append("No segmenter was given, so changes outside the concept’s region went unchecked.")
    if out:
        said.append(
            f"{_many(out, 'question')} ruled out early by the race: a small effect there may have been "
            "missed."
        )
    if failed:
        said.append(f"In {_many(failed, 'measured question')} most edits failed: a small effect says little.")
    if few := sum(c.images < _BOOTSTRAP for c in measured):
        said.append(
            f"{_many(few, 'measured question')} with fewer than {_BOOTSTRAP} pictures: wide intervals."
        )
    if r.seeds == 1:
        said.append("One noise a picture: how far an effect depends on the noise was not measured.")
    if r.screen:
        said.append(f"The race was run by {r.screen}; what only {r.editor} can show may have been ruled out.")
    return said


def citation(request: Request) -> str:
    """BibTeX of this package, at the version that made the run, and of the method."""
    return CITATION.format(version=str(request.settings.get("version", "")).translate({123: None, 125: None}))


def _search(r: Request) -> str:
    if r.search.get("method") == "exhaustive":
        return "Every question was asked of every eligible picture."
    with_what = f", with {r.screen} as the editor," if r.screen else ""
    return (
        f"A race over part of the pictures{with_what} ruled out what could not matter; effects come from "
        "the other pictures."
    )


def _intervals(measured: Iterable[Any]) -> str:
    counts = [c.images for c in measured]
    ways = []
    if any(n >= _BOOTSTRAP for n in counts):
        ways.append("the bootstrap-t (1,999 resamples)")
    if any(n < _BOOTSTRAP for n in counts):
        ways.append(f"Student’s t below {_BOOTSTRAP} pictures")
    return " and ".join(ways) or "none was needed"


def _many(number: int, noun: str) -> str:
    return f"{wording.count(number)} {noun}" + ("" if number == 1 else "s")


def _flat(values: Mapping[str, Any], prefix: str) -> Iterable[Fact]:
    for key, value in sorted(values.items()):
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
