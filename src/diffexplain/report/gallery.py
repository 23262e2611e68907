"""The pictures of each question as the page's script takes them: plain values, strongest first.

A question shows all its pictures unless the page would hold too many; then the strongest and the failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from diffexplain.records import Effect
from diffexplain.report import wording
from diffexplain.report.album import Album
from diffexplain.report.evidence import Evidence, Key
from diffexplain.report.overlays import Overlays, Region, edit_key
from diffexplain.report.rows import Row

#: pairs on one page; more would not stay below 15 MB at a useful size.
MOST = 2000
FEWEST = 2  # pairs a question, however many questions

#: one picture's edits at rising strength, all from one reconstruction.
Series = tuple[Effect, ...]


def galleries(
    ranked: Sequence[Row],
    found: Mapping[Key, Evidence],
    album: Album,
    names: Mapping[str, str],
    over: Overlays | None = None,
) -> dict[str, Any]:
    """By the row's number: its series of pairs, and how many there are in the run; the regions they name."""
    all_of = {row.number: _series(row, found) for row in ranked}
    over = over or Overlays()
    regions: dict[Region, int] = {}
    limit = _limit([len(series) for series in all_of.values()])
    shown = {
        str(number): {
            "all": len(series),
            "series": [[_values(e, album, names, over, regions) for e in one] for one in series[:limit]],
        }
        for number, series in all_of.items()
        if series
    }
    return {"galleries": shown, "regions": [asdict(region) for region in regions], "layer": over.layer}


def _series(row: Row, found: Mapping[Key, Evidence]) -> list[Series]:
    r = row.result
    behind = found.get((r.concept, r.direction), Evidence())
    up = -1.0 if r.effect < 0 else 1.0
    return [*_sorted((*behind.counted, *behind.slides), up), *_sorted(behind.apart, up)]


def _sorted(rows: Iterable[Effect], up: float) -> list[Series]:
    """Series of one picture, seed and prompt; the strongest in the effect's direction first."""
    together: dict[tuple[str, int, str, str], list[Effect]] = {}
    for e in rows:
        if e.reconstruction and e.edited:
            stage = "report" if e.stage == "slide" else e.stage
            together.setdefault((e.image, e.seed, e.edited_as, stage), []).append(e)
    series = [tuple(sorted(one, key=lambda e: e.strength)) for one in together.values()]
    return sorted(series, key=lambda one: (-up * shown(one).change, shown(one).image, shown(one).seed))


def shown(series: Series) -> Effect:
    """The edit that a series starts with: the one that counts, or else at the strength nearest to 1."""
    return min(series, key=lambda e: (e.stage == "slide", abs(e.strength - 1)))


def _limit(counts: Sequence[int]) -> int:
    """The largest number of pairs a question that keeps the page within `MOST`."""
    limit = max(counts, default=0)
    while limit > FEWEST and sum(min(count, limit) for count in counts) > MOST:
        limit -= 1
    return limit


def _values(
    e: Effect, album: Album, names: Mapping[str, str], over: Overlays, regions: dict[Region, int]
) -> dict[str, Any]:
    judged = isfinite(e.presence_after)
    seen = [over.maps[name] for name in (e.reconstruction, e.edited) if name in over.maps]
    region = over.regions.get(edit_key(e))
    return {
        "before": album.number(e.reconstruction),
        "after": album.number(e.edited),
        "badges": [
            wording.badge(e.probability_before, e.score_before),
            wording.badge(e.probability_after, e.score_after),
        ],
        "change": wording.signed(e.change),
        "up": e.change > 0,
        "failed": judged and not e.succeeded,
        "flipped": wording.flipped(e),
        "apart": _apart(e),
        "strength": e.strength,
        **({"slid": True} if e.stage == "slide" else {}),
        "told": _told(e, names),
        **({"maps": [album.number(name) for name in seen]} if len(seen) == 2 else {}),
        **({"region": regions.setdefault(region, len(regions))} if region else {}),
    }


def _apart(e: Effect) -> str:
    """Why a row does not count; "" for one that does."""
    if e.stage in ("race", "joint race"):
        return "from the search’s race, not counted"
    if e.stage == "slide":
        return "at another strength, not counted"
    if e.stage == "second":
        return "by the second editor, reported apart"
    return "" if e.eligible else "picture not eligible, not counted"


def _told(e: Effect, names: Mapping[str, str]) -> list[str]:
    said = [f"{names.get(e.image, e.image[:12])}, seed {e.seed}"]
    if isfinite(e.presence_before) and isfinite(e.presence_after):
        said.append(f"presence {wording.plain(e.presence_before, 2)} → {wording.plain(e.presence_after, 2)}")
    if e.edited_as != e.concept:
        said.append(f"edited as {e.edited_as}")
    if isfinite(e.outside):
        said.append(f"change outside {wording.plain(e.outside)}")
    return said
