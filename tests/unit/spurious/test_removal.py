"""What is drawn over, what is left, and placebos as large elsewhere; on the real pocket models."""

from __future__ import annotations

import pytest
import torch

from diffexplain.editors.generator import load_generator
from diffexplain.judges import load_segmenter
from diffexplain.spurious import Object, SpuriousOptions, area, remove, shown
from diffexplain.spurious.removal import grown, placebo
from diffexplain.worlds import avatars as world


def blob(side: int = 64) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[20:30, 10:40] = True
    return mask


def test_a_placebo_is_as_large_and_elsewhere() -> None:
    mask = blob()
    places = [placebo(mask, seed) for seed in range(6)]
    assert all(p.sum() == mask.sum() and not (p & mask).any() for p in places)
    assert len({tuple(p.flatten().tolist()) for p in places}) > 1
    assert torch.equal(placebo(mask, 3), placebo(mask, 3))


def test_a_placebo_of_a_large_mask_overlaps_as_little_as_it_can() -> None:
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[:4] = False
    assert int((placebo(mask, 0) & mask).sum()) == 16 * 8


def test_masks_grow_by_a_share_of_the_side() -> None:
    assert int(grown(blob()[None], 0.03).sum()) == 14 * 34
    assert torch.equal(grown(blob()[None], 0.0)[0], blob())


def test_masks_are_drawn_in_red() -> None:
    image, mask = torch.full((1, 3, 64, 64), 0.5), blob()[None]
    over = shown(image, mask)
    changed = (over - image).abs().amax(1) > 1 / 255
    assert torch.equal(changed[0], mask[0])
    assert float(over[0, 0][mask[0]].min()) > float(over[0, 1][mask[0]].max())


def test_the_object_goes_and_the_rest_stays() -> None:
    segmenter = load_segmenter("pocket")
    assert segmenter is not None
    thing = Object("a hat", "a person with a hat", segmenter)
    hats = [a for a in world.sample(60, 550_000) if a.headwear == "hat"][:3]
    bare = [a._replace(headwear="none") for a in hats[:1]]
    images = world.render([*bare, *hats], 64)
    generator = load_generator("pocket-turbo")
    found = remove(generator, images, thing, 0.05, "a person", SpuriousOptions(rounds=1), range(4))
    assert found.asked == 3
    assert 0 not in found.index  # no hat to take away
    assert len(found) >= 2
    assert (area(thing.masks(found.no_object)) < 0.05).all()
    assert (area(thing.masks(found.base)) > 0.05).all()
    changed = (found.no_object - found.base).abs().amax(1) > 2 / 255
    near = grown(found.masks, 0.2)  # and the latent's cells
    assert not (changed & ~near).any()
    kept = (found.object_only - found.base).abs().amax(1) > 2 / 255
    assert not (kept & found.masks).any()


def test_nothing_is_drawn_where_nothing_is_found() -> None:
    segmenter = load_segmenter("pocket")
    assert segmenter is not None
    images = world.render([a._replace(headwear="none") for a in world.sample(2, 1)], 64)
    generator = load_generator("pocket-turbo")
    thing = Object("a hat", "a person with a hat", segmenter)
    found = remove(generator, images, thing, 0.05, "a person", SpuriousOptions(), (0, 1))
    assert (len(found), found.asked) == (0, 0)


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_empty_mask_gives_the_reconstruction_and_seeds_matter(rounds: int) -> None:
    from diffexplain.editors.inpainting import inpaint

    generator = load_generator("pocket-turbo")
    images = world.render(world.sample(2, 3), 64)
    empty = torch.zeros(2, 64, 64, dtype=torch.bool)
    plain = inpaint(generator, images, empty, ["a person"] * 2, [1, 2], rounds=rounds)
    assert float((plain - images).abs().mean()) < 0.03
    other = inpaint(generator, images, empty, ["a person with a hat"] * 2, [3, 4], rounds=rounds)
    assert torch.equal(plain, other)  # nothing was drawn
    half = empty.clone()
    half[:, :, 32:] = True
    one, again, two = (
        inpaint(generator, images, half, ["a person"] * 2, seeds, rounds=rounds)
        for seeds in ([1, 2], [1, 2], [5, 6])
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert torch.equal(one[..., :32], plain[..., :32])
    alone = inpaint(generator, images[1:], half[1:], ["a person"], [2], rounds=rounds)
    assert torch.allclose(alone[0], one[1], atol=1e-5)


def test_pictures_of_another_size_are_refused() -> None:
    from diffexplain.editors.inpainting import inpaint
    from diffexplain.errors import EditorError

    generator = load_generator("pocket-turbo")
    with pytest.raises(EditorError, match="64 by 64"):
        inpaint(generator, torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool), ["a"], [0])
    with pytest.raises(EditorError, match="rounds is 0"):
        inpaint(generator, torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool), ["a"], [0],
                rounds=0)  # fmt: skip
