"""The small server of a study: standard library, one SQLite file, 127.0.0.1 unless told otherwise.

GET / (consent) · POST /begin · GET /r/NAME (the page that the reader is at) · POST /r/NAME/choose, turn,
withdraw · GET /p/HASH.webp, /study.css, /study.js. A reader is known by the random name in the address alone:
no cookie, no log, no address of theirs is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from diffexplain.errors import DiffexplainError, InputError
from diffexplain.study.answers import NAME, Desk
from diffexplain.study.booklets import booklet
from diffexplain.study.pages import asset, served_page
from diffexplain.study.records import PICTURES

PORT = 8731
MAX_BODY = 4096  # bytes of a request
PATIENCE = 30  # seconds that a connection may be silent

_READER = re.compile(rf"/r/([\w-]{{{NAME}}})(?:/(choose|turn|withdraw))?")
_PICTURE = re.compile(r"/p/([\w-]+)\.webp")
_HTML, _JSON = "text/html; charset=utf-8", "application/json"


class Reply(NamedTuple):
    """What goes back."""

    status: HTTPStatus
    kind: str
    body: bytes
    kept: bool = False  # whether the browser may keep it


class StudyServer(ThreadingHTTPServer):
    """Serves the study in `folder`. `hosts`: names it may be called by besides its own address."""

    daemon_threads = True

    def __init__(
        self, folder: Path | str, host: str = "127.0.0.1", port: int = PORT, hosts: tuple[str, ...] = ()
    ) -> None:
        self.folder, self.desk = Path(folder), Desk(folder)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            self.desk.close()
            raise InputError(
                f"port {port}: cannot be used ({error.strerror}): give another --port"
            ) from error
        self.hosts = {host, "localhost", *hosts}

    @property
    def url(self) -> str:
        """Where readers begin."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/"

    def server_close(self) -> None:
        """Stop listening and let go of the answers."""
        super().server_close()
        self.desk.close()

    def got(self, path: str) -> Reply:
        """What a GET gets."""
        if path == "/":
            return self._page({"reader": False})
        if path in ("/study.css", "/study.js"):
            kind = "text/css" if path.endswith("css") else "text/javascript"
            return Reply(HTTPStatus.OK, f"{kind}; charset=utf-8", asset(path[1:]).encode())
        if found := _PICTURE.fullmatch(path):
            return self._picture(found[1])
        if (found := _READER.fullmatch(path)) and not found[2]:
            return self._reader(found[1])
        return _failed(HTTPStatus.NOT_FOUND, "there is no such page")

    def posted(self, path: str, body: dict[str, Any]) -> Reply:
        """What a POST does."""
        if path == "/begin":
            return _json({"page": f"/r/{self.desk.admit()}"})
        found = _READER.fullmatch(path)
        if not found or not found[2]:
            return _failed(HTTPStatus.NOT_FOUND, "there is no such page")
        name = found[1]
        if found[2] == "withdraw":
            self.desk.withdraw(name)
        elif found[2] == "turn":
            self.desk.turn(name, _whole(body, "page"))
        else:
            self.desk.choose(name, _whole(body, "page"), str(body.get("ask")), _whole(body, "choice"))
        return _json({})

    def _reader(self, name: str) -> Reply:
        try:
            now = self.desk.standing(name)
        except InputError:
            return self._page({"reader": False}, HTTPStatus.NOT_FOUND)  # withdrawn, or never there
        state: dict[str, Any] = {"reader": True, "page": now.page, "pages": now.pages, "chosen": now.chosen}
        if now.finished:
            state["code"] = hashlib.sha256(name.encode()).hexdigest()[:8]
        else:
            state["shown"] = booklet(self.desk.study, self.desk.booklet(name))[now.page].shown()
        return self._page(state)

    def _page(self, state: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Reply:
        return Reply(status, _HTML, served_page(self.desk.study, state).encode())

    def _picture(self, name: str) -> Reply:
        try:
            picture = (self.folder / PICTURES / f"{name}.webp").read_bytes()
        except OSError:
            return _failed(HTTPStatus.NOT_FOUND, "there is no such picture")
        return Reply(HTTPStatus.OK, "image/webp", picture, kept=True)


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    timeout = PATIENCE
    server_version, sys_version = "diffexplain", ""

    def do_GET(self) -> None:
        """Pages and pictures."""
        self._answer(lambda: self.server.got(self.path.partition("?")[0]))

    def do_POST(self) -> None:
        """Answers."""
        self._answer(lambda: self.server.posted(self.path, self._body()))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing about readers is written down."""

    def _body(self) -> dict[str, Any]:
        if self.headers.get_content_type() != _JSON:  # another site's form cannot send this
            raise InputError("an answer must be JSON")
        length = self.headers.get("Content-Length", "")
        if not (length.isdigit() and int(length) <= MAX_BODY):
            raise InputError("an answer must have a length, and a small one")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise InputError("an answer must be JSON") from error
        if not isinstance(body, dict):
            raise InputError("an answer must be a JSON object")
        return body

    def _answer(self, made: Callable[[], Reply]) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in self.server.hosts:  # a foreign page that resolves its name to us
            self._send(
                _failed(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name: see --host-name")
            )
            return
        try:
            reply = made()
        except InputError as error:
            reply = _failed(HTTPStatus.CONFLICT, str(error))
        except DiffexplainError as error:
            reply = _failed(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        headers = {
            "Content-Type": reply.kind,
            "Content-Length": str(len(reply.body)),
            "Cache-Control": "private, max-age=86400" if reply.kept else "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)


@contextmanager
def serving(
    folder: Path | str, host: str = "127.0.0.1", port: int = PORT, hosts: tuple[str, ...] = ()
) -> Iterator[StudyServer]:
    """A study's server that answers in a thread until the block ends. Port 0 takes a free one."""
    import threading

    server = StudyServer(folder, host, port, hosts)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _whole(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} {value!r}: give a whole number")
    return value


def _json(value: dict[str, Any]) -> Reply:
    return Reply(HTTPStatus.OK, _JSON, json.dumps(value).encode())


def _failed(status: HTTPStatus, said: str) -> Reply:
    return Reply(status, _JSON, json.dumps({"error": said}).encode())
