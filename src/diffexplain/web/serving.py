"""The app on a port: who may come in, and that its page asks nothing of other hosts."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffexplain.errors import InputError
from diffexplain.web.app import build_app, gradio_or_raise

HOST, PORT = "127.0.0.1", 7860
MAX_FILE = "24mb"  # of one upload
#: nothing may be fetched from elsewhere, whatever Gradio's page asks for.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))


def serve(
    root: Path,
    *,
    host: str = HOST,
    port: int = PORT,
    password: str | None = None,
    classifiers: Sequence[str] = (),
    editors: Sequence[str] = (),
    miner: str | None = None,
    block: bool = True,
) -> Any:
    """Serve the app; returns Gradio's blocks, already launched, unless `block` waits for Ctrl-C.

    `classifiers`, `editors`: allowed besides the usual ones; `miner`: the model that sees, for mining.

    Nothing is shared and nothing fetched: no link by Gradio, no analytics, fonts of the system, and a policy
    that keeps the page from asking other hosts. With a password any user name is taken.
    """
    gr = gradio_or_raise()
    blocks = build_app(root, classifiers, editors, miner)
    known = (lambda _, given: hmac.compare_digest(given.encode(), password.encode())) if password else None
    try:
        blocks.queue(max_size=64).launch(
            server_name=host, server_port=port, share=False, auth=known, quiet=True, prevent_thread_lock=True,
            max_file_size=MAX_FILE, allowed_paths=[str(root.resolve())], show_error=False, footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            ssr_mode=False, enable_monitoring=False, app_kwargs={"middleware": [_middleware()]},
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"port {port}: cannot be used ({error}): give another --port") from error
    if block:
        blocks.block_thread()  # until Ctrl-C
        blocks.app_jobs.close()
    return blocks


def _middleware() -> Any:
    """Adds our headers to every answer."""
    from starlette.middleware import Middleware

    return Middleware(_Headed)


class _Headed:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def headed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.app(scope, receive, headed if scope["type"] == "http" else send)
