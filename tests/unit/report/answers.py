"""Hand-made answers of `synthesize`, `find_spurious`, `audit`, `mitigate`, and folders of such runs."""

from __future__ import annotations

from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any

from diffexplain.api.auditing import write_json
from diffexplain.records import (
    Comparison,
    Interval,
    Restart,
    Sample,
    SynthesisCost,
    SynthesisRequest,
    SynthesisResult,
    TargetResult,
    Word,
)
from diffexplain.records.audit import (
    AttributeGap,
    AttributeShares,
    AuditResult,
    FairnessGap,
    MitigationResult,
    Reading,
    Standing,
)
from diffexplain.records.spurious import (
    Calibration,
    Causal,
    Looked,
    Shortcut,
    SpuriousRequest,
    SpuriousResult,
    UnitVerdict,
    Verdict,
)
from diffexplain.store import Run
from tests import factories
from tests.unit.study.folders import squares

MEMBER = "pocket:hired"
SCRIPT = "<script>alert(1)</script>"


def audit(classifier: str = MEMBER, **changes: Any) -> AuditResult:
    """Two edits, the counts of one attribute in two classes, and its reader."""
    gaps = (
        FairnessGap(
            "skin tone/dark",
            "add",
            "skin tone",
            12,
            -0.8,
            -1.1,
            -0.5,
            0.001,
            0.002,
            0.25,
            0.1,
            0.5,
            0.9,
            back=-0.7,
            lost=-0.02,
            in_all=Interval(-0.75, -1.1, -0.4),
        ),
        FairnessGap("sticker/star", "remove", "sticker", 4, 0.1, -0.4, 0.6, 0.7, 0.7, 0.0, 0.0, 0.6, 0.4),
    )
    shares = tuple(
        AttributeShares(
            label, "skin tone", ("light", "dark"), "plain", (40, 10), (0.8, 0.2), (0.7, 0.1), (0.9, 0.3),
            (25, 25), (0.5, 0.5), 0.31, 0.002, 0.004,
        )
        for label in ("hired", "rejected")
    )  # fmt: skip
    reading = Reading("skin tone", ("light", "dark"), ((18, 2), (5, 15)), 0.825)
    which = (AttributeGap("skin tone", "skin tone/dark", "add", -0.8, -1.1, -0.5, 0.002, 0.003),)
    given: dict[str, Any] = {
        "classifier": classifier, "target": "hired", "twin": None, "attributes": ("skin tone",),
        "corpus": "avatars", "judge": "pocket", "margin": 0.0, "readings": (reading,), "shares": shares,
        "gaps": gaps, "attribute_gaps": which, "notes": ("few pictures",),
    }  # fmt: skip
    return AuditResult(**(given | changes))


def mitigation(classifier: str = MEMBER) -> MitigationResult:
    """A shortcut of which a tenth is left."""
    before, after = (
        Standing(2.0, 1.5, 2.5, 0.4, 0.95, 0.9, 0.98),
        Standing(0.2, -0.1, 0.5, 0.05, 0.94, 0.88, 0.97),
    )
    return MitigationResult(
        classifier, "hired", ("background/colour/blue",), "damp", (3, 7), before, after, 0.1, 1.0, 60, 30
    )


def spurious(keep: factories.Pictures, classifier: str = MEMBER, name: str = "head.drop:") -> SpuriousResult:
    """Four units, of which the second carries most; one shortcut."""
    request = SpuriousRequest(
        classifier, "hired", "a person", tuple(f"{name}{i}" for i in range(4)), "pocket", "pocket", "pocket",
        None, (), (),
    )  # fmt: skip
    half, share = Interval(0.5, 0.1, 0.9), Interval(0.7, 0.55, 0.8)
    causal = Causal(9, 3.0, half, half, half, share, half, "core")
    units = []
    for i, carried in enumerate((0.1, 0.9, nan, 0.3)):
        shots = squares(keep, 300 + i, 2)
        rows = tuple(Looked("unit", request.units[i], k, 0.2, 1.5, 0.0, x, x) for k, x in enumerate(shots))
        verdict: Verdict = "core" if i % 2 else "spurious"
        known = causal if i % 2 else None
        units.append(
            UnitVerdict(
                request.units[i], carried, 1.0, 0.5, 1.5, True, 0.2 * i, 0.1 * i, 0.25 * i, 8, verdict, known,
                verdict, True, ("tie",), "", (), rows,
            )
        )  # fmt: skip
    inside, why = Interval(0.2, 0.1, 0.3), "said not to matter"
    shortcut = Shortcut("background/colour/blue", "add", 1.2, 0.9, 1.5, 0.003, 12, inside, why)
    calibration = Calibration(0.01, 0.9, 0.1, 0.5, 8, "a picture of a person", "a picture")
    return SpuriousResult(
        request, calibration, tuple(units), None, (shortcut,), (), 1.0, ("unit 3 was rare",)
    )


def synthesis(keep: factories.Pictures, classifier: str = MEMBER, target: str = "hired") -> SynthesisResult:
    """One class, with its nearest words and the plain prompt's score."""
    request = SynthesisRequest(
        classifier, (target,), "pocket", "a picture of", ("a picture of one",), "pocket", None, (), (), 4
    )
    shots = squares(keep, 400, 2)
    samples = tuple(Sample(target, "optimised", 0, 7 + i, 3.1, True, nan, x, 0) for i, x in enumerate(shots))
    restart = Restart((1.0, 0.5), 0.5, 3.1, ((Word("blazer", 0.2),),), "steps")
    plain = Comparison("plain", -0.4, 0.25, nan, nan)
    found = TargetResult(
        target, "class", (restart,), 0, 3.1, 2.8, 3.4, 3.5, 3.1, 3.9, True, 1.0, nan, 0.3, 0.9, nan,
        "a blue suit", "", samples, (plain,),
    )  # fmt: skip
    return SynthesisResult(request, (found,), SynthesisCost(1, 1, 1.0), ("drawn by a small model",))


def folders(root: Path, *, classifier: str = MEMBER, target: str = "hired") -> dict[str, Path]:
    """A folder of each, as the commands leave them."""
    keep = factories.Pictures()
    made, seen = synthesis(keep, classifier, target), spurious(keep, classifier)
    with Run.open(root / "synthesis", made.request) as run:
        run.append(0, list(made.targets[0].examples), keep.stored)
        run.write_result(made)
    with Run.open(root / "spurious", seen.request) as run:
        run.append(0, [r for u in seen.units for r in u.examples], keep.stored)
        run.write_result(seen)
    write_json(root / "audit/audit.json", asdict(audit(classifier, target=target)))
    write_json(root / "mitigation/mitigation.json", asdict(mitigation(classifier)))
    return {name: root / name for name in ("synthesis", "spurious", "audit", "mitigation")}
