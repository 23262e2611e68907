"""Pairs read back from rows, and what they do to a score."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffexplain.classifiers import load_classifier
from diffexplain.counterfactuals import Counterfactuals, counterfactuals, gap, rebuilt
from diffexplain.images import encode_png, hashes
from diffexplain.targets import Target, choose_target
from tests.factories import run


def brightness(factor: float = 10.0) -> Target:
    def score(images: torch.Tensor) -> torch.Tensor:
        return factor * (images.mean((1, 2, 3)) - 0.5)

    return choose_target(load_classifier(score), None)


def greys(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()


def test_eligible_rows_become_pairs() -> None:
    result, pictures = run()
    rows = [e for c in result.concepts for e in c.examples]
    stored = {}
    for shade, row in enumerate(rows):
        for name in (row.reconstruction, row.edited):
            stored[name] = encode_png(greys(shade / 255 % 1)[0])
    spoilt = [replace(rows[0], eligible=False), *rows[1:]]
    found = counterfactuals(spoilt, stored.__getitem__)
    assert sum(len(p) for p in found.values()) == sum(r.eligible for r in spoilt)
    key = (rows[1].concept, rows[1].direction)
    assert found[key].concept == rows[1].concept
    assert found[key].happened.dtype == bool
    assert len(pictures.stored)


def test_what_was_edited_is_read_back_with_what_rebuilding_took() -> None:
    result, _ = run()
    rows = [e for c in result.concepts for e in c.examples]
    names = sorted({n for r in rows for n in (r.image, r.reconstruction)})
    shades = {n: k / 255 for k, n in enumerate(names)}
    found = rebuilt(rows, lambda n: encode_png(greys(shades[n])[0]))
    assert found is not None
    assert set(zip(found.images, hashes(found.reconstructions), strict=True)) == {
        (r.image, hashes(greys(shades[r.reconstruction]))[0]) for r in rows if r.eligible
    }
    lost = found.lost(brightness())
    for image in lost:
        mine = {shades[r.reconstruction] for r in rows if r.image == image and r.eligible}
        assert lost[image] == pytest.approx(10 * (shades[image] - np.mean(list(mine))), abs=1e-4)
    assert set(found.lost(brightness(), brightness()).values()) == {0.0}
    assert rebuilt([replace(rows[0], eligible=False)], shades.__getitem__) is None  # type: ignore[arg-type]


def test_the_gap_is_the_mean_change_by_image() -> None:
    before, after = greys(0.4, 0.4, 0.2), greys(0.6, 0.5, 0.3)
    pairs = Counterfactuals("a", "add", ("x", "x", "y"), before, after, np.array([True, True, False]))
    found = gap(brightness(), pairs)
    assert found.change.mean == pytest.approx((1.5 + 1.0) / 2, abs=1e-5)
    assert found.change.clusters == 2
    assert found.flip_rate == 0.5  # x crossed one half once
    assert found.happened == pytest.approx(2 / 3)
    assert gap(brightness(), pairs, brightness()).change.mean == pytest.approx(0, abs=1e-9)
    assert gap(brightness(), pairs, brightness(4.0)).change.mean == pytest.approx(0.75, abs=1e-5)


def test_some_pictures_only() -> None:
    pairs = Counterfactuals("a", "add", ("x", "y"), greys(0.1, 0.2), greys(0.3, 0.4), np.array([True, False]))
    only = pairs.only(["y"])
    assert only.images == ("y",)
    assert hashes(only.after) == hashes(greys(0.4))
    assert not only.happened.any()
