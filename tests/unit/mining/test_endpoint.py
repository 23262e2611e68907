from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from diffexplain.errors import ModelError
from diffexplain.mining.endpoint import Answer, Endpoint, Patience, image_part
from diffexplain.mining.loading import load_model
from tests.unit.mining.chat_server import Reply, completion, failing, serving

HELLO = [{"role": "user", "content": "hello there"}]
SHAPE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
QUICK = Patience(attempts=4, first_wait=0.001, longest_wait=0.01, timeout=5)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFEXPLAIN_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def asked(*replies: Reply, schema: dict[str, Any] | None = None) -> tuple[Answer, list[dict[str, Any]]]:
    """The answer after these replies, and the requests that were made."""
    with serving(lambda request, n: replies[min(n, len(replies) - 1)]) as chat:
        endpoint = Endpoint("m", chat.url, QUICK)
        return endpoint.ask(HELLO, schema), chat.requests


def test_a_question_is_one_post_with_its_schema() -> None:
    answer, requests = asked(completion('{"a": 1}'), schema=SHAPE)
    assert answer == Answer('{"a": 1}', 100, 20, truncated=False)
    (request,) = requests
    assert request["model"] == "m"
    assert request["messages"] == HELLO
    assert request["response_format"]["json_schema"]["schema"] == SHAPE
    assert request["temperature"] == 0


def test_without_a_schema_none_is_sent_and_tokens_are_estimated_where_not_counted() -> None:
    answer, requests = asked(completion("good morning", usage=False, finish="length"))
    assert "response_format" not in requests[0]
    assert answer == Answer("good morning", 3, 3, truncated=True)  # 11 and 12 letters, 4 to a token


@pytest.mark.parametrize(
    "trouble",
    [
        failing(429, "slow down", retry_after="0"),
        failing(429, "slow down", retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
        failing(500, "oops"),
        failing(503, "<html>busy</html>"),
        failing(200, '{"choices": [{"mess'),
        failing(0),
    ],
    ids=["429", "429 with a date", "500", "503", "a body that breaks off", "hung up"],
)
def test_a_busy_or_broken_server_is_asked_again(trouble: Reply) -> None:
    answer, requests = asked(trouble, trouble, completion("yes"))
    assert answer.text == "yes"
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (failing(500, "the GPU\nis on fire"), "HTTP 500: 'the GPU is on fire'"),
        (failing(429, "quota", retry_after="9999"), "HTTP 429: 'quota'"),
        (failing(200, "not json " * 100), "HTTP 200: 'not json not json"),
        (failing(0), "RemoteProtocolError"),
    ],
)
def test_one_that_stays_so_is_given_up_with_what_came_back(trouble: Reply, says: str) -> None:
    with serving(lambda request, n: trouble) as chat:
        with pytest.raises(ModelError, match="no usable reply in 4 tries") as caught:
            Endpoint("m", chat.url, QUICK).ask(HELLO)
        assert len(chat.requests) == 4
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (failing(401, "bad key"), "HTTP 401: 'bad key'; set DIFFEXPLAIN_API_KEY"),
        (failing(404, "no such model"), "HTTP 404: 'no such model'; check the model's name"),
        (failing(302, "", location="http://127.0.0.1:1/"), "HTTP 302"),
        (failing(200, '{"error": "overloaded"}'), 'is no chat completion: \'{"error": "overloaded"}\''),
        (failing(200, "[1]"), "is no chat completion: '[1]'"),
        (failing(200, '{"choices": []}'), "is no chat completion"),
    ],
)
def test_what_another_try_does_not_mend_is_said_at_once(trouble: Reply, says: str) -> None:
    with serving(lambda request, n: trouble) as chat:
        with pytest.raises(ModelError) as caught:
            Endpoint("m", chat.url, QUICK).ask(HELLO)
        assert len(chat.requests) == 1
    assert says in str(caught.value)


def test_a_server_without_schemas_is_asked_without_from_then_on() -> None:
    def answer(request: dict[str, Any], n: int) -> Reply:
        return (
            failing(400, "unknown field response_format")
            if "response_format" in request
            else completion("{}")
        )

    with serving(answer) as chat, Endpoint("m", chat.url, QUICK) as endpoint:
        assert endpoint.ask(HELLO, SHAPE).text == "{}"
        assert endpoint.ask(HELLO, SHAPE).text == "{}"
    assert ["response_format" in r for r in chat.requests] == [True, False, False]


def test_a_model_that_names_its_limit_otherwise_and_has_one_temperature() -> None:
    def answer(request: dict[str, Any], n: int) -> Reply:
        for refused in ("max_tokens", "temperature"):
            if refused in request:
                return failing(400, f"Unsupported parameter: '{refused}'")
        return completion("fine")

    with serving(answer) as chat, Endpoint("m", chat.url, QUICK, max_tokens=77) as endpoint:
        assert endpoint.ask(HELLO).text == "fine"
    assert chat.requests[-1]["max_completion_tokens"] == 77
    assert "temperature" not in chat.requests[-1]


def test_a_refusal_or_parts_are_text_and_nothing_is_empty() -> None:
    def message(**parts: Any) -> Reply:
        return failing(200, json.dumps({"choices": [{"message": parts}]}))

    assert asked(message(content=None, refusal="I will not"))[0].text == "I will not"
    assert (
        asked(message(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))[0].text == "ab"
    )
    assert asked(message(content=None))[0].text == ""
    assert asked(message(content="\ud800x"))[0].text == "?x"


def test_the_key_comes_from_the_environment_and_openais_goes_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    with serving(lambda request, n: completion("x")) as chat:
        Endpoint("m", chat.url, QUICK).ask(HELLO)
        monkeypatch.setenv("DIFFEXPLAIN_API_KEY", "sk-own")
        endpoint = Endpoint("m", chat.url, QUICK)
        endpoint.ask(HELLO)
    assert [headers.get("authorization") for headers in chat.headers] == [None, "Bearer sk-own"]
    assert "sk-own" not in repr(endpoint) + endpoint.name
    monkeypatch.delenv("DIFFEXPLAIN_API_KEY")
    for url, sent in (
        ("https://api.openai.com/v1", True),
        ("https://openai.com.evil.example/v1", False),
        ("https://notopenai.com/v1", False),
    ):
        assert ("authorization" in Endpoint("m", url)._client.headers) == sent, url


def test_nobody_listens() -> None:
    with pytest.raises(
        ModelError, match=r"no usable reply in 4 tries, last ConnectError.*give the same command"
    ):
        Endpoint("m", "http://127.0.0.1:9/v1", QUICK).ask(HELLO)


def test_an_endless_reply_is_cut() -> None:
    with (
        serving(lambda request, n: failing(200, " " * 9_000_000)) as chat,
        pytest.raises(ModelError, match="a reply of more than 8 MB"),
    ):
        Endpoint("m", chat.url, QUICK).ask(HELLO)


@pytest.mark.parametrize(
    ("spec", "model", "url"),
    [
        ("openai:qwen@http://127.0.0.1:1/v1/", "qwen", "http://127.0.0.1:1/v1"),
        ("openai:org/name@v2@https://host/v1", "org/name@v2", "https://host/v1"),
        ("openai:gpt-x", "gpt-x", "https://api.openai.com/v1"),
        ("openai:llava:7b@http://localhost:11434/v1", "llava:7b", "http://localhost:11434/v1"),
    ],
)
def test_a_spec_names_model_and_server(spec: str, model: str, url: str) -> None:
    made = load_model(spec)
    assert isinstance(made, Endpoint)
    assert (made.model, made.base_url, made.name) == (model, url, f"openai:{model}@{url}")
    assert load_model(made) is made


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gpt-4", "no model 'gpt-4'; give openai:MODEL"),
        ("openai:", "no model 'openai:'"),
        ("openai:@http://x/v1", "no model"),
        ("transformers:", "no model"),
        ("openai:m@http://", "base URL 'http://': give one such as"),
        ("openai:m@http://h:99999/v1", "give one such as"),
        ("openai:m@http://me:secret@host/v1", "put credentials in DIFFEXPLAIN_API_KEY"),
    ],
)
def test_a_wrong_spec_says_what_to_give(spec: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(spec)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_travels_in_its_message() -> None:
    picture = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    url = image_part(picture)["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as back:
        assert back.size == (32, 24)
    flat = image_part(torch.full((3, 24, 32), 0.5))["image_url"]["url"].split(",")[1]
    with Image.open(io.BytesIO(base64.b64decode(flat))) as grey:
        assert np.abs(np.asarray(grey).astype(float) - 127.5).max() < 2


def test_no_redirect_is_followed() -> None:
    assert httpx.Client().follow_redirects is False
