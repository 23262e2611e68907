"""The page of a synthesis: what each class or unit wants to see, how it got there, and against what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from diffexplain.records import Comparison, Sample, SynthesisRequest, SynthesisResult, TargetResult
from diffexplain.report import wording
from diffexplain.report.album import Album
from diffexplain.report.beside import Plate, Table
from diffexplain.report.frame import fragment, render, write

ORIGINS = {
    "optimised": "the optimised prompt",
    "plain": "the plain prompt",
    "random": "random words",
    "hard": "the prompt in real words",
    "pixels": "pixels (Yosinski et al. 2015)",
    "natural": "pixels (Mahendran & Vedaldi 2016)",
    "decoder": "the decoder’s latents (Nguyen et al. 2016)",
    "attack": "feature attack on real pictures",
    "real": "real pictures",
}
WIDTH, HEIGHT = 320.0, 90.0  # of a curve, in its own units
PICTURED = 6  # of a target in a notebook, which keeps its outputs
EXCITING = 6  # real pictures shown, those of the highest scores


class Shown(NamedTuple):
    """One target as the page shows it."""

    result: TargetResult
    plain: str
    optimised: Sequence[Plate]
    beside: Sequence[tuple[str, Sequence[Plate]]]  # what made them, pictures
    figures: Table
    curves: Sequence[str]  # points of a polyline, one a restart
    words: Sequence[tuple[str, ...]]  # nearest words of each learned token


def write_synthesis_report(result: SynthesisResult, picture: Callable[[str], bytes], path: Path) -> Path:
    """Write a synthesis as one self-contained HTML file that opens offline; return its path.

    `picture(hash)` gives a stored picture as PNG bytes. Raises RunError when the file cannot be written.
    """
    return write(synthesis_page(result, picture), path)


def synthesis_page(result: SynthesisResult, picture: Callable[[str], bytes]) -> str:
    """The page as text."""
    request = result.request
    named = dict(zip(request.images, request.names, strict=False))
    question = f"What does {request.classifier} want to see?"
    return render(
        "synthesis.html.j2",
        Album(picture),
        names=named,
        title=question,
        question=question,
        answer=[sentence(t) for t in result.targets],
        result=result,
        request=request,
        targets=[_shown(t, plain, named) for t, plain in zip(result.targets, request.plain, strict=True)],
        asked=_asked(request),
        spent=[
            ("Time", wording.duration(result.cost.seconds)),
            ("Iterations", wording.count(result.cost.iterations)),
            ("UNet evaluations", wording.count(result.cost.evaluations)),
        ],
        width=WIDTH,
        height=HEIGHT,
    )


def synthesis_fragment(result: SynthesisResult, picture: Callable[[str], bytes]) -> str:
    """What a notebook shows of a synthesis: markup without script, escaped, pictures inside."""
    return fragment(
        "notebook-synthesis.html.j2",
        Album(picture),
        question=f"What does {result.request.classifier} want to see?",
        notes=result.notes,
        targets=[(t, sentence(t), t.examples[:PICTURED]) for t in result.targets],
    )


def sentence(t: TargetResult) -> str:
    """The answer for one target, in words and numbers."""
    near = [w[0].token for w in t.restarts[t.chosen].words if w]
    reads = f"; its nearest words are {', '.join(dict.fromkeys(near))}" if near else ""
    if not t.reached:
        return f"{t.target}: not reached, the pictures say nothing about it."
    return (
        f"{t.target}: {wording.signed(t.score)} ({wording.interval(t.low, t.high)}) on held-out seeds, "
        f"{wording.signed(t.gain)} more than by the plain prompt{reads}."
    )


def _shown(t: TargetResult, plain: str, named: Mapping[str, str]) -> Shown:
    real = [c for c in t.compared if c.origin == "real"]
    beside = [
        (ORIGINS[c.origin], [plate(s, named) for s in c.examples]) for c in t.compared if c.origin != "real"
    ]
    for c in real:
        best = sorted(c.examples, key=lambda s: -s.score)[:EXCITING]
        beside.append(("real pictures, the highest scores first", [plate(s, named) for s in best]))
    curves = [_points(r.curve, [x for other in t.restarts for x in other.curve]) for r in t.restarts]
    words = [tuple(f"{w.token} {w.distance:.2f}" for w in near) for near in t.restarts[t.chosen].words]
    return Shown(t, plain, [plate(s, named) for s in t.examples], beside, figures(t), curves, words)


def plate(sample: Sample, named: Mapping[str, str]) -> Plate:
    """A picture with its score; `named`: file names of real pictures by content hash."""
    caption = named.get(sample.picture, f"seed {sample.seed}")
    return Plate(sample.picture, caption, wording.signed(sample.score))


def figures(t: TargetResult) -> Table:
    """Every origin's score beside the optimised prompt's."""
    own = Comparison("optimised", t.score, t.share, t.second, t.kid)
    with_second = any(isfinite(c.second) for c in (own, *t.compared))
    with_kid = any(isfinite(c.kid) for c in (own, *t.compared))
    head = ["pictures by", "mean score"]
    head += ["in the class"] if t.kind == "class" else []
    head += ["second classifier"] if with_second else []
    head += ["KID to real ones"] if with_kid else []
    return Table(
        tuple(head), tuple(_row(c, t.kind == "class", with_second, with_kid) for c in (own, *t.compared))
    )


def _row(c: Comparison, shares: bool, second: bool, kid: bool) -> tuple[str, ...]:
    cells = [ORIGINS[c.origin], wording.signed(c.score)]
    cells += [wording.percent(c.share)] if shares else []
    cells += [wording.signed(c.second)] if second else []
    cells += [wording.plain(c.kid)] if kid else []
    return tuple(cells)


def _points(curve: Sequence[float], all_losses: Sequence[float]) -> str:
    """A curve as an SVG polyline, on the scale of all restarts."""
    known = [x for x in all_losses if isfinite(x)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    tall = (high - low) or 1.0
    wide = max(1, len(curve) - 1)
    return " ".join(
        f"{i * WIDTH / wide:.1f},{HEIGHT * (high - x) / tall:.1f}" for i, x in enumerate(curve) if isfinite(x)
    )


def _asked(request: SynthesisRequest) -> list[tuple[str, str]]:
    chosen = request.settings.get("options", {})
    return [
        ("Classifier", request.classifier),
        ("Second classifier", request.second or "none"),
        ("Diffusion model", request.editor),
        ("Fixed words", request.text),
        ("Learned tokens", str(chosen.get("tokens", ""))),
        ("Restarts", str(chosen.get("restarts", ""))),
        ("Gradient", "none, black box" if request.settings.get("black_box") else str(chosen.get("mode", ""))),
        ("Held-out pictures a prompt", wording.count(request.seeds)),
        ("Eyes of diversity and KID", request.judge),
        ("Real pictures", wording.count(len(request.images))),
    ]
