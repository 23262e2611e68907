"""Does a unit of a class see the class's object, or something that only comes with it?"""

from diffexplain.spurious.asking import load_finder
from diffexplain.spurious.keeping import DRAWN, Album, Shots
from diffexplain.spurious.naming import Moved, contents, inside, irrelevant_among, shortcut
from diffexplain.spurious.removal import Object, Removal, area, remove, shown
from diffexplain.spurious.telling import notes
from diffexplain.spurious.verdicts import (
    SpuriousOptions,
    as_floats,
    by_intervention,
    by_presence,
    calibrate,
    joined,
    leaning,
    needed,
    surpassed,
)

__all__ = [
    "DRAWN",
    "Album",
    "Moved",
    "Object",
    "Removal",
    "Shots",
    "SpuriousOptions",
    "area",
    "as_floats",
    "by_intervention",
    "by_presence",
    "calibrate",
    "contents",
    "inside",
    "irrelevant_among",
    "joined",
    "leaning",
    "load_finder",
    "needed",
    "notes",
    "remove",
    "shortcut",
    "shown",
    "surpassed",
]
