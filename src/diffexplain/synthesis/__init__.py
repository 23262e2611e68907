"""Prompts optimised through a diffusion model, so that its pictures show what a classifier wants to see."""

from diffexplain.synthesis.optimisation import Optimum, held_out_seeds, optimise
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.units import Unit, carrying_units

__all__ = ["Optimum", "SynthesisOptions", "Unit", "carrying_units", "held_out_seeds", "optimise"]
