"""Asking a server with patience and within bounds: rate, retries, time-out, cost cap, cache, credentials."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests

from diffexplain.classifiers.base import first_line
from diffexplain.errors import ClassifierError

PASSING = (408, 425, 429, 500, 502, 503, 504)  # worth another try
LARGEST = 64_000_000  # bytes of an answer
LONGEST = 60.0  # seconds that a server may make us wait between two tries
_SECRET = ("key", "token", "secret", "password", "signature", "sig", "auth", "credential")


@dataclass(frozen=True, kw_only=True)
class TransportOptions:
    """How a server is asked.

    `rate`: requests a second at most; `retries` of a failed one, the first after `backoff` seconds, then
    twice as long each time (or as long as the server says); `timeout` of one in seconds; `most_requests` in
    all; `cache`: a file in which answers are kept (without: in memory); `token_env`: the environment variable
    whose value is sent as a bearer token, or as it is in the header `token_header`.
    """

    rate: float | None = None
    retries: int = 5
    backoff: float = 0.5
    timeout: float = 30.0
    most_requests: int | None = None
    cache: str | None = None
    token_env: str | None = None
    token_header: str = "Authorization"

    def __post_init__(self) -> None:
        for name, least in (
            ("rate", 0),
            ("timeout", 0),
            ("most_requests", 0),
            ("retries", -1),
            ("backoff", -1),
        ):
            value = getattr(self, name)
            if value is not None and not value > least:
                raise ClassifierError(
                    f"{name} {value!r}: give a number above {least if least == 0 else 'or equal to 0'}"
                )


class Transport:
    """A session with one server. What it says of a failure never holds the credentials."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        check_url(url)
        self.sent = self.repeated = 0
        self._url, self._options, self._next = url, options, 0.0
        self._session = requests.Session()
        self._session.auth = lambda request: request  # or ~/.netrc would be read
        self._token = _token(url, options)
        if self._token:
            bearer = options.token_header.lower() == "authorization"
            self._session.headers[options.token_header] = f"Bearer {self._token}" if bearer else self._token

    def ask(
        self, body: bytes | None = None, kind: str = "application/json", *, url: str | None = None
    ) -> Any:
        """POST (GET without a body) and the JSON that comes back. Raises ClassifierError in one line."""
        wait, said = self._options.backoff, ""
        for attempt in range(self._options.retries + 1):
            answer = self._once(url or self._url, body, kind)
            if not isinstance(answer, _Failure):
                return answer
            said = answer.says
            if not answer.passing:
                break
            if attempt < self._options.retries:
                self.repeated += 1
                time.sleep(min(LONGEST, wait if answer.wait is None else answer.wait))
                wait *= 2
        tries = f" after {attempt + 1} tries" if attempt else ""
        raise ClassifierError(f"{_bare(url or self._url)} {self._clean(said)}{tries}")

    def _once(self, url: str, body: bytes | None, kind: str) -> Any:
        cap = self._options.most_requests
        if cap is not None and self.sent >= cap:
            raise ClassifierError(
                f"most_requests {cap} are used up at {_bare(self._url)}; raise it, or give cache=FILE"
            )
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + (1 / self._options.rate if self._options.rate else 0)
        self.sent += 1
        try:
            return self._read(url, body, kind)
        except requests.RequestException as error:
            timed_out = isinstance(error, requests.Timeout)
            says = (
                f"gave no answer within {self._options.timeout:g} s"
                if timed_out
                else f"failed: {first_line(error)}"
            )
            return _Failure(says, passing=isinstance(error, requests.ConnectionError | requests.Timeout))

    def _read(self, url: str, body: bytes | None, kind: str) -> Any:
        end = time.monotonic() + self._options.timeout
        with self._session.request(
            "GET" if body is None else "POST",
            url,
            data=body,
            headers={"Content-Type": kind, "Accept": "application/json"} if body is not None else {},
            timeout=self._options.timeout,
            allow_redirects=False,
            stream=True,
        ) as response:
            data = b""
            for chunk in response.iter_content(65536):
                data += chunk
                if len(data) > LARGEST:
                    return _Failure(f"answered more than {LARGEST // 10**6} MB", passing=False)
                if time.monotonic() > end:
                    raise requests.Timeout
        if response.status_code // 100 != 2:
            text = " ".join(data.decode("utf-8", "replace").split())[:200]
            return _Failure(f"answered {response.status_code} {response.reason}: {text or 'no message'}",
                            passing=response.status_code in PASSING, wait=_retry_after(response))  # fmt: skip
        try:
            return json.loads(data)
        except ValueError as error:
            start = data[:60].decode("utf-8", "replace")
            return _Failure(f"answered no JSON ({error}): {start!r}", passing=True)

    def _clean(self, text: str) -> str:
        kept = text.replace(self._token, "…") if self._token else text
        return "".join(c if c.isprintable() else " " for c in kept)


@dataclass(frozen=True)
class _Failure:
    says: str
    passing: bool
    wait: float | None = None


class Answers:
    """Scores by picture, in memory and, with a file, on disk: nothing is paid for twice."""

    def __init__(self, file: str | None) -> None:
        self._known: dict[str, list[float]] = {}
        self._disk: sqlite3.Connection | None = None
        if file is None:
            return
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            self._disk = sqlite3.connect(file, timeout=30)
            with self._disk:
                self._disk.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, scores TEXT NOT NULL)"
                )
        except (OSError, sqlite3.Error) as error:
            raise ClassifierError(
                f"cache {file!r} cannot be used: {first_line(error)}; name another file"
            ) from error

    def get(self, key: str) -> list[float] | None:
        """The scores kept under a key."""
        if key not in self._known and self._disk is not None:
            row = self._disk.execute("SELECT scores FROM answers WHERE key = ?", [key]).fetchone()
            if row:
                self._known[key] = [float(v) for v in json.loads(row[0])]
        return self._known.get(key)

    def keep(self, rows: Sequence[tuple[str, list[float]]]) -> None:
        """Keep new scores."""
        self._known.update(rows)
        if self._disk is not None:
            with self._disk:
                made = [(key, json.dumps(scores)) for key, scores in rows]
                self._disk.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", made)


def check_url(url: str) -> None:
    """Raises ClassifierError for an address without a host, or one that holds credentials."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ClassifierError(f"no classifier {url!r}; give http://HOST/PATH or https://HOST/PATH")
    secret = [name for name, _ in parse_qsl(parts.query) if any(word in name.lower() for word in _SECRET)]
    if parts.username or parts.password or secret:
        raise ClassifierError(
            f"the address of {parts.hostname} holds credentials, which would end up in the run folder; "
            "put them into an environment variable and give token_env=ITS_NAME"
        )


def _token(url: str, options: TransportOptions) -> str | None:
    """The credentials. Raises ClassifierError when they are not there or would travel in the clear."""
    if options.token_env is None:
        return None
    token = os.environ.get(options.token_env, "").strip()
    if not token:
        raise ClassifierError(
            f"token_env {options.token_env!r}: this environment variable is not set; set it"
        )
    if urlsplit(url).scheme != "https" and not _loopback(urlsplit(url).hostname or ""):
        raise ClassifierError(
            f"{_bare(url)} would get the token of {options.token_env} in the clear; use https"
        )
    return token


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bare(url: str) -> str:
    """The address without its query."""
    return url.partition("?")[0]


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks us to wait: a number or a date."""
    said: str = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
