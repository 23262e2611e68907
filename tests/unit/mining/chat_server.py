"""A real HTTP server on loopback that speaks the OpenAI chat protocol, and a model that knows avatars."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Chat:
    """What the server was asked, and how it answers: `answer(request, n)` for the n-th request, from 0."""

    answer: Callable[[dict[str, Any], int], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""


def completion(text: str | None, *, finish: str = "stop", usage: bool = True) -> Reply:
    """A well-formed reply that says `text`."""
    content: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]
    }
    if usage:
        content["usage"] = {"prompt_tokens": 100, "completion_tokens": 20}
    return 200, {}, json.dumps(content).encode()


def failing(status: int, text: str = "", **headers: str) -> Reply:
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, text.encode()


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[Chat]:
    chat = Chat(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            n = len(chat.requests)
            chat.requests.append(request)
            chat.headers.append({k.lower(): v for k, v in self.headers.items()})
            chat.paths.append(self.path)
            status, headers, body = chat.answer(request, n)
            if status == 0:  # hang up
                self.close_connection = True
                return
            self.send_response(status)
            for key, value in {"content-type": "application/json", **headers}.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def question(request: dict[str, Any]) -> str:
    """All the words of the first message."""
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else "\n".join(p.get("text", "") for p in content)


def pictures_in(request: dict[str, Any]) -> int:
    content = request["messages"][0]["content"]
    return sum(part["type"] == "image_url" for part in content)


#: what the model of the fixture knows of avatars: group -> kind -> (one at a time, absent, values).
KNOWN: dict[str, dict[str, tuple[bool, str, dict[str, str]]]] = {
    "Head wear": {
        "Hat": (True, "no headwear", {"hat": "a hat", "Winter Hat": "a winter hat", "turban": "a turban"}),
    },
    "hair": {
        "colour": (True, "", {"black": "black hair", "red": "red hair", "silver": "silver hair"}),
        "style": (True, "", {"afro": "an afro", "bun": "a bun", "an afro": "an afro", "mood": "a good mood"}),
    },
    "face": {
        "Beard": (False, "", {"light": "a light beard", "long": "a long beard", "beards": "light beards"}),
        "glasses": (False, "", {"round": "round glasses", "plan": "a hidden intention"}),
    },
}


def knows(request: dict[str, Any], n: int = 0) -> Reply:
    """The model of the fixture: reads the question, numbers and all, and answers from what it knows."""
    return completion(json.dumps(said(question(request))))


def said(asked: str) -> dict[str, Any]:
    numbered = re.findall(r"^(\d+)\. (.*)$", asked, re.MULTILINE)
    if "group pass" in asked or "Sort them" in asked:
        groups = [{"name": name, "kinds": list(kinds)} for name, kinds in KNOWN.items()]
        return {"subject": "a person", "groups": groups}
    if "Object to" in asked:
        return {"drop": [{"number": int(n), "why": "not visible"} for n, term in numbered if "mood" in term]}
    kinds = {f"{g}: {k}".casefold(): v for g, some in KNOWN.items() for k, v in some.items()}
    answer = []
    for number, name in numbered:
        single, absent, values = kinds[name]
        listed = [{"name": n, "phrase": p} for n, p in values.items()]
        answer.append({"number": int(number), "one_at_a_time": single, "absent": absent, "values": listed})
    return {"kinds": answer}
