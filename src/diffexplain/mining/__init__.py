"""Mining: a corpus for a domain from its pictures, by a vision-language model or by CLIP and a word list.

After DiffEx (Kazimi, Allada & Yanardag, CVPR 2025), which has groups and then finer kinds named by a model;
here what is named must also be seen: CLIP has to read it differently from picture to picture.
"""

from diffexplain.errors import ModelError
from diffexplain.mining.drafting import Draft, Dropped
from diffexplain.mining.endpoint import Answer, Endpoint, Model, Patience, image_part
from diffexplain.mining.ledger import Ledger, Usage
from diffexplain.mining.loading import load_model
from diffexplain.mining.passes import MiningOptions, foreseen, mined
from diffexplain.mining.words import read_words, sorted_words

__all__ = [
    "Answer",
    "Draft",
    "Dropped",
    "Endpoint",
    "Ledger",
    "MiningOptions",
    "Model",
    "ModelError",
    "Patience",
    "Usage",
    "foreseen",
    "image_part",
    "load_model",
    "mined",
    "read_words",
    "sorted_words",
]
