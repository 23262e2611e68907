"""What prompt optimisation is compared with: activation maximisation in pixels, in latents, from pictures."""

from diffexplain.baselines.ascent import Ascent, maximise
from diffexplain.baselines.decoders import DecoderOptions, load_decoder
from diffexplain.baselines.pictures import AttackOptions
from diffexplain.baselines.pixels import YOSINSKI, NaturalOptions, PixelOptions

__all__ = [
    "YOSINSKI",
    "Ascent",
    "AttackOptions",
    "DecoderOptions",
    "NaturalOptions",
    "PixelOptions",
    "load_decoder",
    "maximise",
]
