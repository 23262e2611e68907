"""The avatars world: compositional portraits whose every attribute is known and can be changed.

Drawn from the *Avataaars* design by Pablo Stanley through DiceBear; colour, pattern and sticker of the
background are composited here. An attribute that cannot be seen (hair under a hat, eyes behind
sunglasses) is *not applicable* everywhere: in captions, readings and truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from diffexplain.worlds.drawing import backdrop, rasterise, sticker

Direction = Literal["add", "remove"]
NONE = "none"


class Avatar(NamedTuple):
    """One avatar: the value of every attribute ("none" where an optional part is absent)."""

    facial_hair: str
    facewear: str
    headwear: str
    hair_style: str
    hair_colour: str
    garment: str
    garment_colour: str
    mouth: str
    eyes: str
    eyebrows: str
    skin: str
    background: str
    pattern: str
    sticker: str


class Value(NamedTuple):
    """One value of an attribute: its concept path, what a person says, and how it is drawn."""

    path: str
    phrase: str
    draw: str


#: attribute -> value -> (concept path, phrase, variant or colour).
ATTRIBUTES: Mapping[str, Mapping[str, Value]] = {
    "facial_hair": {
        "light_beard": Value("facial hair/beard/light", "a light beard", "beardLight"),
        "medium_beard": Value("facial hair/beard/medium", "a medium beard", "beardMedium"),
        "long_beard": Value("facial hair/beard/long", "a long beard", "beardMajestic"),
        "fancy_moustache": Value("facial hair/moustache/fancy", "a fancy moustache", "moustacheFancy"),
        "big_moustache": Value("facial hair/moustache/big", "a big moustache", "moustacheMagnum"),
    },
    "facewear": {
        "round_glasses": Value("facewear/glasses/round", "round glasses", "round"),
        "thin_glasses": Value("facewear/glasses/thin", "thin glasses", "prescription02"),
        "thick_glasses": Value("facewear/glasses/thick", "thick glasses", "prescription01"),
        "classic_sunglasses": Value("facewear/sunglasses/classic", "classic sunglasses", "kurt"),
        "wayfarer_sunglasses": Value("facewear/sunglasses/wayfarer", "wayfarer sunglasses", "wayfarers"),
        "eyepatch": Value("facewear/eyepatch", "an eyepatch", "eyepatch"),
    },
    "headwear": {
        "hat": Value("headwear/hat", "a hat", "hat"),
        "hijab": Value("headwear/hijab", "a hijab", "hijab"),
        "turban": Value("headwear/turban", "a turban", "turban"),
        "winter_hat": Value("headwear/winter hat", "a winter hat", "winterHat03"),
    },
    "hair_style": {
        "short": Value("hair/style/short", "short hair", "shortFlat"),
        "quiff": Value("hair/style/quiff", "a quiff", "frizzle"),
        "spiky": Value("hair/style/spiky", "spiky hair", "dreads02"),
        "bun": Value("hair/style/bun", "a bun", "bun"),
        "bob": Value("hair/style/bob", "a bob cut", "bob"),
        "curly": Value("hair/style/curly", "curly hair", "curly"),
        "afro": Value("hair/style/afro", "an afro", "fro"),
        "wavy": Value("hair/style/wavy", "long wavy hair", "curvy"),
        "straight": Value("hair/style/straight", "long straight hair", "straight01"),
        "mullet": Value("hair/style/mullet", "a mullet", "shaggyMullet"),
    },
    "hair_colour": {
        "black": Value("hair/colour/black", "black hair", "2c1b18"),
        "brown": Value("hair/colour/brown", "brown hair", "8a5a38"),
        "blond": Value("hair/colour/blond", "blond hair", "e5c069"),
        "red": Value("hair/colour/red", "red hair", "c93305"),
        "silver": Value("hair/colour/silver", "silver hair", "e8e1e1"),
    },
    "garment": {
        "blazer": Value("clothing/garment/blazer", "a blazer", "blazerAndShirt"),
        "hoodie": Value("clothing/garment/hoodie", "a hoodie", "hoodie"),
        "overalls": Value("clothing/garment/overalls", "overalls", "overall"),
        "t_shirt": Value("clothing/garment/t-shirt", "a plain t-shirt", "shirtCrewNeck"),
        "printed_shirt": Value("clothing/garment/printed shirt", "a printed shirt", "graphicShirt"),
    },
    "garment_colour": {
        "red": Value("clothing/colour/red", "red clothes", "ff5c5c"),
        "blue": Value("clothing/colour/blue", "blue clothes", "3f6fd8"),
        "green": Value("clothing/colour/green", "green clothes", "3fa562"),
        "yellow": Value("clothing/colour/yellow", "yellow clothes", "ffd23f"),
        "black": Value("clothing/colour/black", "black clothes", "262e33"),
    },
    "mouth": {
        "smile": Value("expression/mouth/smile", "a smile", "smile"),
        "serious": Value("expression/mouth/serious", "a serious mouth", "serious"),
        "sad": Value("expression/mouth/sad", "a sad mouth", "sad"),
        "grimace": Value("expression/mouth/grimace", "a grimace", "grimace"),
    },
    "eyes": {
        "open": Value("expression/eyes/open", "open eyes", "default"),
        "closed": Value("expression/eyes/closed", "closed eyes", "closed"),
        "wide": Value("expression/eyes/wide", "wide eyes", "surprised"),
        "hearts": Value("expression/eyes/hearts", "heart eyes", "hearts"),
    },
    "eyebrows": {
        "relaxed": Value("expression/eyebrows/relaxed", "relaxed eyebrows", "default"),
        "angry": Value("expression/eyebrows/angry", "angry eyebrows", "angryNatural"),
        "raised": Value("expression/eyebrows/raised", "raised eyebrows", "raisedExcited"),
    },
    "skin": {
        "pale": Value("skin tone/pale", "pale skin", "ffdbb4"),
        "tan": Value("skin tone/tan", "tan skin", "d8965a"),
        "brown": Value("skin tone/brown", "brown skin", "9c5a30"),
        "dark": Value("skin tone/dark", "dark skin", "6a4532"),
    },
    "background": {
        "blue": Value("background/colour/blue", "a blue background", "8ec5ff"),
        "green": Value("background/colour/green", "a green background", "9ad8a0"),
        "yellow": Value("background/colour/yellow", "a yellow background", "ffe08a"),
        "pink": Value("background/colour/pink", "a pink background", "ffb3c7"),
        "grey": Value("background/colour/grey", "a grey background", "c9ced6"),
    },
    "pattern": {
        "stripes": Value("background/pattern/stripes", "background stripes", "stripes"),
        "dots": Value("background/pattern/dots", "background dots", "dots"),
    },
    "sticker": {
        "red_dot": Value("sticker/red dot", "a red dot sticker", "red_dot"),
        "star": Value("sticker/star", "a star sticker", "star"),
    },
}

#: optional attribute -> (probability of "none", what a person says when it is absent).
OPTIONAL: Mapping[str, tuple[float, str]] = {
    "facial_hair": (0.4, "no facial hair"),
    "facewear": (0.4, "no facewear"),
    "headwear": (0.6, "no headwear"),
    "pattern": (0.4, "a plain background"),
    "sticker": (0.4, "no sticker"),
}

#: words for inner nodes of the concept tree, used at random in place of the leaf's.
GENERAL: Mapping[str, str] = {
    "facial hair/beard": "a beard",
    "facial hair/moustache": "a moustache",
    "facewear/glasses": "glasses",
    "facewear/sunglasses": "sunglasses",
}

LEAVES: Mapping[str, tuple[str, str]] = {
    value.path: (slot, name) for slot, values in ATTRIBUTES.items() for name, value in values.items()
}

_SUNGLASSES = ("classic_sunglasses", "wayfarer_sunglasses")
_FRAME = {"thin_glasses": "dfe4e8"}
_VIEW = 'viewBox="18 8 244 244"'  # the design's empty margin is cut so that faces get more pixels
_PREFIX = "a person with "


def values(slot: str) -> tuple[str, ...]:
    """All values of an attribute, "none" first where the part is optional."""
    return ((NONE,) if slot in OPTIONAL else ()) + tuple(ATTRIBUTES[slot])


def applicable(avatar: Avatar, slot: str) -> bool:
    """Whether the attribute can be seen: headwear hides hair, sunglasses eyes, a hijab the garment."""
    if slot in ("hair_style", "hair_colour"):
        return avatar.headwear == NONE
    if slot == "eyes":
        return avatar.facewear not in _SUNGLASSES
    if slot == "garment":
        return avatar.headwear != "hijab"
    return True


def leaves(concept: str) -> tuple[str, ...]:
    """The leaves at or under a concept path. Raises KeyError for a path the world does not have."""
    found = tuple(p for p in LEAVES if p == concept or p.startswith(concept + "/"))
    if not found:
        raise KeyError(f"no concept {concept!r} in the avatars world")
    return found


def present(avatar: Avatar, concept: str) -> bool:
    """Whether the avatar visibly shows the concept (any leaf under it)."""
    return any(
        getattr(avatar, slot) == name and applicable(avatar, slot)
        for slot, name in (LEAVES[leaf] for leaf in leaves(concept))
    )


def sample(n: int, seed: int, correlate: Mapping[tuple[str, str], float] | None = None) -> list[Avatar]:
    """Draw `n` avatars with independent attributes.

    `correlate={(a, b): p}` plants a confounder: with probability `p` concept `b` is made present
    exactly when `a` is, else exactly when it is not ("hat goes with smile in 95 %").
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(n):
        avatar = Avatar(*(_draw(slot, rng) for slot in Avatar._fields))
        for (cause, effect), p in (correlate or {}).items():
            wanted = present(avatar, cause) == (rng.random() < p)
            avatar = force(avatar, effect, wanted, rng)
        drawn.append(avatar)
    return drawn


def _draw(slot: str, rng: np.random.Generator) -> str:
    if slot in OPTIONAL and rng.random() < OPTIONAL[slot][0]:
        return NONE
    names = tuple(ATTRIBUTES[slot])
    return names[int(rng.integers(len(names)))]


def force(avatar: Avatar, concept: str, wanted: bool, rng: np.random.Generator) -> Avatar:
    """Make a concept present or absent, redrawing its attribute among the values that fit."""
    slots = {LEAVES[leaf][0] for leaf in leaves(concept)}
    inside = {LEAVES[leaf] for leaf in leaves(concept)}
    for slot in sorted(slots):
        if ((slot, getattr(avatar, slot)) in inside) != wanted:
            fitting = [v for v in values(slot) if ((slot, v) in inside) == wanted]
            avatar = avatar._replace(**{slot: fitting[int(rng.integers(len(fitting)))]})
    return avatar


def do(avatar: Avatar, concept: str, direction: Direction = "add") -> Avatar:
    """The same avatar with just that changed (an intervention, Pearl's do).

    Add sets a leaf's value; remove empties the attribute, where the part is optional.
    Raises ValueError for an inner node to add, or a removal the world does not have.
    """
    under = leaves(concept)
    slot, name = LEAVES[under[0]]
    if direction == "add":
        if under != (concept,):
            raise ValueError(f"{concept!r} is not a leaf; add one of {', '.join(under)}")
        return avatar._replace(**{slot: name})
    if slot not in OPTIONAL or len({LEAVES[leaf][0] for leaf in under}) > 1:
        raise ValueError(f"{concept!r} cannot be removed; removable are {', '.join(sorted(OPTIONAL))}")
    return avatar._replace(**{slot: NONE})


def eligible(avatar: Avatar, concept: str, direction: Direction = "add") -> bool:
    """Add where the concept is absent and could be seen; remove where it is present."""
    slot = LEAVES[leaves(concept)[0]][0]
    if direction == "remove":
        return slot in OPTIONAL and present(avatar, concept)
    return applicable(avatar, slot) and not present(avatar, concept)


def true_effect(
    score: Callable[[torch.Tensor], torch.Tensor],
    avatars: Sequence[Avatar],
    concept: str,
    direction: Direction = "add",
    *,
    size: int = 64,
) -> tuple[float, float]:
    """Mean change of a score under re-rendering, over eligible avatars, and its standard error.

    `score` maps images (N, 3, H, W) to one number each. An inner node is the mean over its leaves.
    Returns (nan, nan) when no avatar is eligible.
    """
    means, variances = [], []
    for leaf in leaves(concept):
        chosen = [a for a in avatars if eligible(a, leaf, direction)]
        if not chosen:
            continue
        before = score(render(chosen, size))
        after = score(render([do(a, leaf, direction) for a in chosen], size))
        change = (after - before).double()
        means.append(change.mean().item())
        variances.append(change.var().item() / len(chosen) if len(chosen) > 1 else float("nan"))
    if not means:
        return float("nan"), float("nan")
    return float(np.mean(means)), float(np.sqrt(np.sum(variances)) / len(means))


def caption(avatar: Avatar, rng: np.random.Generator | None = None) -> str:
    """A description in free word order with clauses dropped at random.

    Without `rng`: every applicable attribute, in order. What cannot be seen is never said.
    """
    clauses = []
    for slot in Avatar._fields:
        if not applicable(avatar, slot):
            continue
        name = getattr(avatar, slot)
        if name == NONE:
            clauses.append(OPTIONAL[slot][1])
            continue
        value = ATTRIBUTES[slot][name]
        general = next((w for p, w in GENERAL.items() if value.path.startswith(p + "/")), None)
        use_general = general and rng is not None and rng.random() < 0.1
        clauses.append(general if use_general and general else value.phrase)
    if rng is not None:
        order = rng.permutation(len(clauses))
        keep = len(clauses) if rng.random() < 0.4 else int(rng.integers(1, len(clauses) + 1))
        clauses = [clauses[i] for i in order[:keep]]
    return _PREFIX + ", ".join(clauses)


def prompt(concept: str) -> str:
    """The one-clause caption of a leaf, or of an inner node that has a word of its own."""
    if concept in GENERAL:
        return _PREFIX + GENERAL[concept]
    slot, name = LEAVES[concept]
    return _PREFIX + ATTRIBUTES[slot][name].phrase


def render(avatars: Sequence[Avatar], size: int = 64) -> torch.Tensor:
    """Draw avatars: float32 images in [0, 1], (N, 3, size, size)."""
    if not avatars:
        return torch.zeros(0, 3, size, size)
    return torch.from_numpy(render_bytes(avatars, size)).permute(0, 3, 1, 2).float().div_(255)


def render_bytes(avatars: Sequence[Avatar], size: int = 64) -> np.ndarray:
    """Draw avatars as uint8 pictures, (N, size, size, 3)."""
    return np.stack([np.asarray(_draw_one(a, size)) for a in avatars])


def _draw_one(avatar: Avatar, size: int) -> Image.Image:
    picture = backdrop(ATTRIBUTES["background"][avatar.background].draw, avatar.pattern, size).copy()
    hidden = {s: next(iter(ATTRIBUTES[s])) for s in Avatar._fields if not applicable(avatar, s)}
    figure = avatar._replace(background="", pattern="", sticker="", **hidden)
    picture.alpha_composite(_figure(figure, size))
    if avatar.sticker != NONE:
        picture.alpha_composite(sticker(avatar.sticker, size))
    return picture.convert("RGB")


@lru_cache(maxsize=1)
def _style() -> Any:
    from dicebear import Style

    text = files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")
    return Style(json.loads(text))


@lru_cache(maxsize=4096)
def _figure(avatar: Avatar, size: int) -> Image.Image:
    from dicebear import Avatar as Drawing

    def draw(slot: str) -> str:
        name = getattr(avatar, slot)
        return "" if name == NONE else ATTRIBUTES[slot][name].draw

    top = draw("headwear") or draw("hair_style")
    options = {
        "seed": "diffexplain",
        "topProbability": 100,
        "topVariant": [top],
        "hairColor": ["#" + draw("hair_colour")],
        "hatColor": ["#7a4fa3"],
        "facialHairProbability": 100 if draw("facial_hair") else 0,
        "facialHairVariant": [draw("facial_hair") or "beardLight"],
        "facialHairColor": ["#1d1412"],
        "accessoriesProbability": 100 if draw("facewear") else 0,
        "accessoriesVariant": [draw("facewear") or "round"],
        "accessoriesColor": ["#" + _FRAME.get(avatar.facewear, "262e33")],
        "clothesVariant": [draw("garment")],
        "clothesColor": ["#" + draw("garment_colour")],
        "clothesGraphicVariant": ["bear"],
        "mouthVariant": [draw("mouth")],
        "eyesVariant": [draw("eyes")],
        "eyebrowsVariant": [draw("eyebrows")],
        "skinColor": ["#" + draw("skin")],
    }
    svg = Drawing(_style(), options).to_string().replace('viewBox="0 0 280 280"', _VIEW)
    return rasterise(svg, size)


def mask(avatar: Avatar, group: str, size: int = 64) -> torch.Tensor:
    """Pixels that an attribute owns in this avatar: bool (size, size).

    Optional parts: what differs from the same avatar without it. Other parts: what any other value
    would change. Empty where the attribute cannot be seen. `group` is an attribute or a concept path.
    """
    slots = [group] if group in ATTRIBUTES else sorted({LEAVES[leaf][0] for leaf in leaves(group)})
    owned = torch.zeros(size, size, dtype=torch.bool)
    for slot in slots:
        if not applicable(avatar, slot):
            continue
        others = (NONE,) if slot in OPTIONAL else values(slot)
        pictures = render([avatar, *(avatar._replace(**{slot: v}) for v in others)], size)
        owned |= (pictures[1:] - pictures[:1]).abs().amax(dim=(0, 1)) > 1.5 / 255
    return owned


def region(concept: str, size: int = 64) -> torch.Tensor:
    """Pixels that a change of this concept may touch in any avatar: bool (size, size)."""
    slots = sorted({LEAVES[leaf][0] for leaf in leaves(concept)})
    return torch.stack([_reach(slot, size) for slot in slots]).any(0)


@lru_cache(maxsize=64)
def _reach(slot: str, size: int) -> torch.Tensor:
    """Every pixel that differs between any two values of an attribute, in a crowd that hides little.

    Each hair style is there with a bare face and with any: it decides what hats and hair colours touch.
    """
    reach = torch.zeros(size, size, dtype=torch.bool)
    styles, garments = values("hair_style"), values("garment")
    for i, avatar in enumerate(sample(2 * len(styles), seed=0)):
        again, style = divmod(i, len(styles))
        garment = garments[(style + again) % len(garments)]
        avatar = avatar._replace(headwear=NONE, hair_style=styles[style], garment=garment)
        if not again:
            avatar = avatar._replace(facewear=NONE, facial_hair=NONE)
        pictures = render([avatar._replace(**{slot: v}) for v in values(slot)], size)  # (V, 3, H, W)
        reach |= (pictures.amax(0) - pictures.amin(0)).amax(0) > 0.5 / 255
    return reach


def readings(avatar: Avatar) -> dict[str, str | None]:
    """What an ideal observer reads: attribute -> value, None where it cannot be seen."""
    return {slot: getattr(avatar, slot) if applicable(avatar, slot) else None for slot in Avatar._fields}
