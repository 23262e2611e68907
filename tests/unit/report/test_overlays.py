"""What is drawn over pictures: masks come back, files are kept whole, pages name them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffexplain.errors import RunError
from diffexplain.report.album import Album
from diffexplain.report.evidence import evidence
from diffexplain.report.gallery import galleries
from diffexplain.report.overlays import OVERLAYS, Overlays, Region, edit_key, known_overlays, pairs
from diffexplain.report.page import page
from diffexplain.report.rows import rows
from tests import factories


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_mask_comes_back(mask: np.ndarray) -> None:
    region = Region.of(mask)
    assert sum(region.counts) == mask.size
    assert (region.mask() == mask).all()


def test_a_run_keeps_them(tmp_path: Path) -> None:
    assert Overlays.read(tmp_path) == Overlays()
    kept = Overlays({"a": "b"}, "layer4", {"hat\tx\ty": Region((2, 3), (1, 2, 3))}, "pocket")
    kept.write(tmp_path)
    assert Overlays.read(tmp_path) == kept
    (tmp_path / OVERLAYS).write_text('{"maps": {}}', "utf-8")
    with pytest.raises(RunError, match="is damaged"):
        Overlays.read(tmp_path)


def test_galleries_name_maps_and_regions() -> None:
    result, effects, pictures = factories.measured(images=6)
    e = result.concepts[0].examples[0]
    mask = np.zeros((64, 64), np.bool_)
    mask[10:20, 5:9] = True
    over = Overlays({e.reconstruction: e.edited, e.edited: e.reconstruction}, "layer4",
                    {edit_key(one): Region.of(mask) for one in pairs(result)}, "pocket")  # fmt: skip
    album, ranked = Album(pictures), rows(result)
    data = galleries(ranked, evidence(result, effects), album, {}, over)
    assert data["layer"] == "layer4"
    assert [Region(tuple(r["size"]), tuple(r["counts"])).mask().sum() for r in data["regions"]] == [40]
    shown = [pair for one in data["galleries"].values() for series in one["series"] for pair in series]
    mapped = [pair for pair in shown if "maps" in pair]
    assert mapped
    assert all(pair["maps"] == [pair["after"], pair["before"]] for pair in mapped)  # exchanged, as said above
    assert sum(pair.get("region") == 0 for pair in shown) == len(pairs(result))
    assert "Grad-CAM on the same pictures" not in page(result, pictures, effects=effects)
    every = {name: name for one in pairs(result) for name in (one.reconstruction, one.edited)}
    made = page(result, pictures, effects=effects, overlays=replace(over, maps=every))
    assert "Grad-CAM on the same pictures" in made
    assert "of layer layer4" in " ".join(made.split())


def test_a_world_says_where_concepts_act() -> None:
    result, effects, pictures = factories.measured(images=6)
    result = replace(result, request=replace(result.request, segmenter="world:avatars"))
    glasses = [e for e in effects if e.concept == "facewear/glasses/round"][:2]
    over = known_overlays(result, glasses, pictures, Overlays())
    assert over.segmenter == "world:avatars"
    one, other = (over.regions[edit_key(e)] for e in glasses)
    assert one == other
    assert 0.01 < one.mask().mean() < 0.3
    assert (
        known_overlays(factories.result(), glasses, pictures, Overlays()) == Overlays()
    )  # a model would be asked
    kept = Overlays(regions={"x": one})
    assert known_overlays(result, glasses, pictures, kept) is kept
