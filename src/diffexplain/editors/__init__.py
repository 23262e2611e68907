"""Diffusion editors behind one protocol: invert once, then any mix of edits in one batch."""

from diffexplain.editors.base import Edit, Editor, Inversion, Term
from diffexplain.editors.loading import EditorShape, editor_shape, load_editor

__all__ = ["Edit", "Editor", "EditorShape", "Inversion", "Term", "editor_shape", "load_editor"]
