"""Diffusion editors behind one protocol: invert once, then any mix of edits in one batch."""

from diffexplain.editors.base import Edit, Editor, Inversion, Term, begun
from diffexplain.editors.loading import EditorShape, editor_shape, load_editor

__all__ = ["Edit", "Editor", "EditorShape", "Inversion", "Term", "begun", "editor_shape", "load_editor"]
