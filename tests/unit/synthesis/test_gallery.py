"""Pictures of written prompts, on a tiny real pipeline: drawn once, shared by runs, the same again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffexplain.editors.generator import Generator, GeneratorOptions
from diffexplain.errors import InputError, RunError
from diffexplain.images import rounded
from diffexplain.synthesis.gallery import Gallery
from tests.tiny import tiny_pipeline

TEXTS, SEEDS = ["a toy cat", "a toy dog", "a toy cat", "a toy cat"], [1, 1, 2, 1]


class Counting(Generator):
    """How many pictures were drawn."""

    drawn = 0

    def images(self, *args: object, **more: object) -> torch.Tensor:
        found = super().images(*args, **more)  # type: ignore[arg-type]
        self.drawn += len(found)
        return found


def counting(steps: int = 2, heed: float = 3) -> Counting:
    return Counting(tiny_pipeline(size=16, heed=heed), name="tiny", options=GeneratorOptions(steps=steps))


def test_each_picture_is_drawn_once_and_is_what_the_generator_draws() -> None:
    model, gallery = counting(), Gallery()
    found = gallery.images(model, TEXTS, SEEDS)
    assert model.drawn == 3
    assert torch.equal(gallery.images(model, TEXTS, SEEDS), found)
    assert model.drawn == 3
    assert torch.equal(found, rounded(model.images(model.prompts(TEXTS), SEEDS)))
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[2])


def test_a_file_serves_a_later_gallery_and_another_model_of_the_same_weights(tmp_path: Path) -> None:
    file = tmp_path / "new" / "gallery.sqlite"
    first = Gallery(file).images(counting(), TEXTS, SEEDS)
    again = counting()
    assert torch.equal(Gallery(file).images(again, TEXTS, SEEDS), first)
    assert again.drawn == 0


@pytest.mark.parametrize("other", [{"steps": 3}, {"heed": 2.0}])
def test_other_settings_or_weights_are_drawn_anew(tmp_path: Path, other: dict[str, float]) -> None:
    gallery, model = Gallery(tmp_path / "gallery"), counting(**other)  # type: ignore[arg-type]
    first = gallery.images(counting(), TEXTS, SEEDS)
    assert not torch.equal(gallery.images(model, TEXTS, SEEDS), first)
    assert model.drawn == 3


def test_memory_forgets_the_oldest_and_draws_it_again() -> None:
    model = counting()
    one = Gallery(most=1)
    assert torch.equal(one.images(model, TEXTS, SEEDS), Gallery().images(model, TEXTS, SEEDS))
    model.drawn = 0
    one.images(model, TEXTS, SEEDS)
    assert model.drawn == 3


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are notes, and no database; " * 40)
    with pytest.raises(InputError, match=r"^gallery '.*notes\.txt': .*; name a new file"):
        Gallery(file)
    assert file.read_text().startswith("these are notes")
    with pytest.raises(InputError, match="name a new file"):
        Gallery(tmp_path)


def test_a_gallery_that_was_spoilt_is_said(tmp_path: Path) -> None:
    gallery, model = Gallery(tmp_path / "gallery"), counting()
    gallery.images(model, TEXTS, SEEDS)
    with gallery._base:
        gallery._base.execute("UPDATE pictures SET pixels = substr(pixels, 1, 12)")
    with pytest.raises(RunError, match=r"^gallery .*; free some space, or name a new file"):
        gallery.images(model, TEXTS, SEEDS)
