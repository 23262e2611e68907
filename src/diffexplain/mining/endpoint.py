"""A language model behind the OpenAI chat protocol: vLLM, Ollama, llama.cpp, OpenAI and others.

One POST a question to BASE/chat/completions. The key comes from the environment alone:
DIFFEXPLAIN_API_KEY for any server; OPENAI_API_KEY goes to openai.com only.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import torch
from PIL import Image

from diffexplain.errors import ModelError
from diffexplain.images import to_8bit

OPENAI = "https://api.openai.com/v1"
KEYS = ("DIFFEXPLAIN_API_KEY", "OPENAI_API_KEY")
MAX_REPLY = 8_000_000  # bytes
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # worth asking again
_LETTERS = 4  # about so many to a token, where a server does not count

Message = Mapping[str, Any]  # {"role": …, "content": text or parts}, as the protocol has it


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and what it cost."""

    text: str
    tokens_in: int
    tokens_out: int
    truncated: bool = False  # it ran into the limit of tokens


class Model(Protocol):
    """Anything that answers chat messages."""

    name: str

    def ask(self, messages: Sequence[Message], schema: Mapping[str, Any] | None = None) -> Answer:
        """An answer; JSON of that schema, as far as the model can be held to it. Raises ModelError."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to ask again."""

    attempts: int = 5
    first_wait: float = 1.0  # seconds, doubled each time unless the server says how long
    longest_wait: float = 60.0
    timeout: float = 180.0


@dataclass
class Endpoint:
    """A model of a server. Close it, or use it in a `with`."""

    model: str
    base_url: str = OPENAI
    patience: Patience = Patience()
    max_tokens: int = 4096
    name: str = field(init=False)
    _client: httpx.Client = field(init=False, repr=False)
    #: what a server may refuse: tried until it does, then left out
    _extras: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.base_url = _checked_url(self.base_url)
        self.name = f"openai:{self.model}@{self.base_url}"
        key = _key(self.base_url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=self.patience.timeout)
        self._extras = {"temperature": 0, "max_tokens": self.max_tokens, "response_format": None}

    def ask(self, messages: Sequence[Message], schema: Mapping[str, Any] | None = None) -> Answer:
        """One answer. Asks again while the server is busy or broken; raises ModelError when it stays so."""
        while True:
            body = self._body(messages, schema)
            reply = self._sent(body)
            if reply.status_code in (400, 404, 422, 501) and (refused := self._refused(reply, body)):
                self._leave_out(refused)
                continue
            return _answer(self._good(reply), messages, self.name)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _body(self, messages: Sequence[Message], schema: Mapping[str, Any] | None) -> dict[str, Any]:
        body = {"model": self.model, "messages": list(messages), "stream": False, **self._extras}
        if "response_format" in body:
            del body["response_format"]
            if schema is not None:
                shape = {"name": "answer", "strict": True, "schema": dict(schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": shape}
        return body

    def _refused(self, reply: httpx.Response, body: Mapping[str, Any]) -> str:
        """The optional setting that the server does not take; empty when it is not about one."""
        names = [name for name in self._extras if name in body]
        said = reply.text.lower()
        named = [name for name in names if name in said]
        asked = "response_format" in body and reply.status_code != 404
        return named[0] if named else "response_format" * asked

    def _leave_out(self, name: str) -> None:
        value = self._extras.pop(name)
        if name == "max_tokens":  # newer OpenAI models call it otherwise
            self._extras["max_completion_tokens"] = value

    def _sent(self, body: Mapping[str, Any]) -> httpx.Response:
        """The first reply that is not worth another try."""
        problem, wait = "", self.patience.first_wait
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(min(wait, self.patience.longest_wait))
                wait = self.patience.first_wait * 2**attempt
            try:
                reply = self._posted(body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if reply.status_code == 200 and _is_json(reply):
                return reply
            if reply.status_code not in _BUSY and reply.status_code != 200:
                return reply
            problem = f"HTTP {reply.status_code}: {excerpt(reply.text)}"
            wait = _asked_wait(reply, wait)
        tries = self.patience.attempts
        cure = "check that it runs there, then give the same command again: answered calls are kept"
        raise ModelError(f"model {self.name}: no usable reply in {tries} tries, last {problem}; {cure}")

    def _posted(self, body: Mapping[str, Any]) -> httpx.Response:
        with self._client.stream("POST", f"{self.base_url}/chat/completions", json=body) as reply:
            content = b""
            for part in reply.iter_bytes():
                content += part
                if len(content) > MAX_REPLY:
                    raise ModelError(f"model {self.name}: a reply of more than {MAX_REPLY / 1e6:.0f} MB")
        headers = {key: reply.headers[key] for key in ("retry-after",) if key in reply.headers}
        return httpx.Response(reply.status_code, headers=headers, content=content)

    def _good(self, reply: httpx.Response) -> Any:
        if reply.status_code == 200:
            return reply.json()
        cure = {
            401: f"set {KEYS[0]} in the environment",
            403: f"check {KEYS[0]} in the environment",
            404: "check the model's name and the base URL, which usually ends in /v1",
        }.get(reply.status_code, "check the model and the base URL")
        raise ModelError(f"model {self.name}: HTTP {reply.status_code}: {excerpt(reply.text)}; {cure}")


def image_part(image: torch.Tensor) -> dict[str, Any]:
    """A picture (3, H, W) in [0, 1] as a part of a message: a JPEG in a data URL."""
    buffer = io.BytesIO()
    pixels = to_8bit(image).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def text_part(text: str) -> dict[str, Any]:
    """Words as a part of a message."""
    return {"type": "text", "text": text}


def letters(messages: Sequence[Message]) -> int:
    """How many letters the messages have in all; pictures count nothing."""
    contents = [m["content"] for m in messages]
    parts = [[text_part(c)] if isinstance(c, str) else c for c in contents]
    return sum(len(part.get("text", "")) for some in parts for part in some)


def excerpt(text: str, most: int = 200) -> str:
    """The beginning of what came back, on one line, for an error."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return repr(line if len(line) <= most else line[:most] + "…")


def _answer(content: Any, messages: Sequence[Message], name: str) -> Answer:
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
        text = text if isinstance(text, str) else "".join(part.get("text", "") for part in text)
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be kept
    except (AttributeError, IndexError, KeyError, TypeError):
        what = excerpt(json.dumps(content))
        raise ModelError(
            f"model {name}: the reply is no chat completion: {what}; check the base URL"
        ) from None
    used = content.get("usage") if isinstance(content.get("usage"), dict) else {}
    return Answer(
        text=text,
        tokens_in=_count(used.get("prompt_tokens"), letters(messages)),
        tokens_out=_count(used.get("completion_tokens"), len(text)),
        truncated=choice.get("finish_reason") == "length",
    )


def _count(told: object, length: int) -> int:
    return told if isinstance(told, int) and told >= 0 else -(-length // _LETTERS)


def _is_json(reply: httpx.Response) -> bool:
    try:
        reply.json()
    except ValueError:
        return False
    return True


def _asked_wait(reply: httpx.Response, usual: float) -> float:
    """Seconds that the server asks to wait; the usual when it does not say."""
    try:
        return max(0.0, float(reply.headers.get("retry-after", "")))
    except ValueError:
        return usual


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ModelError(f"base URL {url!r}: give one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ModelError(f"base URL of host {host!r}: put credentials in {KEYS[0]}, not in the URL")
    return url.rstrip("/")


def _key(url: str) -> str:
    own, openai = (os.environ.get(name, "").strip() for name in KEYS)
    host = urlsplit(url).hostname or ""
    return own or (openai if host == "openai.com" or host.endswith(".openai.com") else "")
