"""The web app: one heavy job at a time in a thread of its own, every run in a folder under one root."""

from diffexplain.web.app import build_app
from diffexplain.web.serving import HOST, PORT, serve

__all__ = ["HOST", "PORT", "build_app", "serve"]
