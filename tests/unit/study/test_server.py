"""A real server on loopback: readers, choices, and everything that must be refused."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from diffexplain.errors import InputError
from diffexplain.study.answers import Desk, read_answers
from diffexplain.study.booklets import booklet
from diffexplain.study.server import StudyServer, serving
from tests.unit.study.population import study

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    study(units=2, items=1).write(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.webp").write_bytes(b"RIFF")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[StudyServer]:
    with serving(folder, port=0) as running:
        yield running


def ask(server: StudyServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, sent, JSON | headers)
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    return answer.status, said


def begin(server: StudyServer) -> str:
    return str(json.loads(ask(server, "POST", "/begin", {})[1])["page"])


def answer_all(server: StudyServer, reader: str) -> None:
    name = reader.rpartition("/")[2]
    for number, page in enumerate(booklet(server.desk.study, server.desk.booklet(name))):
        for asked in page.item.asks:
            body = {"page": number, "ask": asked.name, "choice": asked.truth or 0}
            assert ask(server, "POST", f"{reader}/choose", body)[0] == 200
        assert ask(server, "POST", f"{reader}/turn", {"page": number})[0] == 200


def test_a_session_is_kept(server: StudyServer, folder: Path) -> None:
    reader = begin(server)
    answer_all(server, reader)
    assert '"code"' in ask(server, "GET", reader)[1]
    readers, answers = read_answers(folder)
    assert [r.finished for r in readers] == [True]
    assert {a.ask for a in answers} == {"attribute", "share", "quality", "disentanglement", "better", "check"}
    assert all(a.seconds >= 0 for a in answers)


def test_pages_are_answered_in_turn_and_stay_answered(server: StudyServer, folder: Path) -> None:
    reader = begin(server)
    first = booklet(server.desk.study, 0)[0].item.asks[0]
    choice = {"page": 0, "ask": first.name, "choice": 1}
    assert ask(server, "POST", f"{reader}/turn", {"page": 0})[0] == 409  # not answered yet
    assert ask(server, "POST", f"{reader}/choose", {**choice, "page": 1})[0] == 409
    assert ask(server, "POST", f"{reader}/choose", {**choice, "choice": 99})[0] == 409
    assert ask(server, "POST", f"{reader}/choose", {**choice, "ask": "truth"})[0] == 409
    assert ask(server, "POST", f"{reader}/choose", choice)[0] == 200
    assert ask(server, "POST", f"{reader}/choose", {**choice, "choice": 0})[0] == 200  # changed their mind
    assert ask(server, "POST", f"{reader}/turn", {"page": 0})[0] == 200
    assert ask(server, "POST", f"{reader}/turn", {"page": 0})[0] == 200  # a second click turns no further
    assert ask(server, "POST", f"{reader}/choose", choice)[0] == 409
    assert '"page": 1' in ask(server, "GET", reader)[1]
    assert [a.choice for a in read_answers(folder)[1]] == [0]


def test_answers_outlive_the_server(folder: Path) -> None:
    with serving(folder, port=0) as running:
        reader = begin(running)
        first = booklet(running.desk.study, 0)[0].item.asks[0]
        ask(running, "POST", f"{reader}/choose", {"page": 0, "ask": first.name, "choice": 1})
    with serving(folder, port=0) as again:
        assert f'"{first.name}": 1' in ask(again, "GET", reader)[1]


def test_many_readers_at_once_get_booklets_of_their_own(server: StudyServer) -> None:
    with ThreadPoolExecutor(6) as pool:
        readers = list(pool.map(lambda _: begin(server), range(12)))
    numbers = [server.desk.booklet(r.rpartition("/")[2]) for r in readers]
    assert sorted(numbers) == list(range(12))


def test_who_withdraws_leaves_nothing(server: StudyServer, folder: Path) -> None:
    reader = begin(server)
    answer_all(server, reader)
    assert ask(server, "POST", f"{reader}/withdraw", {})[0] == 200
    assert ask(server, "GET", reader)[0] == 404
    readers, answers = read_answers(folder)
    assert answers == []
    assert reader.rpartition("/")[2] not in readers[0].name
    assert server.desk.booklet(begin(server).rpartition("/")[2]) == 1  # no booklet is given twice


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/study.json", None, {}, 404),
        ("GET", "/answers.sqlite", None, {}, 404),
        ("GET", "/p/..%2f..%2fstudy.json", None, {}, 404),
        ("GET", "/p/../study.json", None, {}, 404),
        ("GET", "/r/" + "a" * 22, None, {}, 404),
        ("POST", "/r/" + "a" * 22 + "/turn", {"page": 0}, {}, 409),
        ("POST", "/begin", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 409),
        ("POST", "/begin", b"[" * 4000, {}, 409),
        ("POST", "/begin", b"[]", {}, 409),
        ("POST", "/begin", b"x" * 5000, {}, 409),
        ("GET", "/", None, {"Host": "evil.example"}, 421),
        ("DELETE", "/", None, {}, 501),
    ],
)
def test_what_must_be_refused(
    server: StudyServer, method: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    assert ask(server, method, path, body, **headers)[0] == status


def test_pages_hold_neither_truth_nor_method(server: StudyServer) -> None:
    reader = begin(server)
    _, page = ask(server, "GET", reader)
    assert '"truth"' not in page
    assert '"method"' not in page
    assert '"unit"' not in page


def test_pictures_and_headers(server: StudyServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.request("GET", "/p/x.webp")
    answer = connection.getresponse()
    assert answer.read() == b"RIFF"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "Set-Cookie" not in answer.headers
    connection.close()


def test_a_port_in_use_says_the_cure(server: StudyServer, folder: Path) -> None:
    with pytest.raises(InputError, match="give another --port"):
        StudyServer(folder, port=server.server_address[1])


def test_files_of_readers(folder: Path, tmp_path: Path) -> None:
    of = Desk(folder).study
    pages = booklet(of, 3)
    answers = [
        {"page": i, "ask": a.name, "choice": 0, "seconds": 2.5}
        for i, p in enumerate(pages)
        for a in p.item.asks
    ]
    file = tmp_path / "answers.json"
    whole = {"study": "0", "reader": "r", "booklet": 3, "answers": answers}
    file.write_text(json.dumps(whole))
    readers, found = read_answers(folder, [file, file])
    assert [(r.name, r.booklet, r.finished) for r in readers] == [("r", 3, True)]
    assert len(found) == len(answers)
    file.write_text(json.dumps(whole | {"answers": answers[1:]}))
    assert not read_answers(folder, [file])[0][0].finished
    for wrong, said in (
        ({"study": "other"}, "another study"),
        ({"answers": [*answers, answers[0]]}, "answered twice"),
        ({"answers": [answers[0] | {"choice": 77}]}, "no choice 77"),
        ({"answers": [{"page": "x"}]}, "holds no answers"),
        ({"booklet": -1}, "holds no answers"),
    ):
        file.write_text(json.dumps(whole | wrong))
        with pytest.raises(InputError, match=said):
            read_answers(folder, [file])


def test_a_full_disk_is_told(folder: Path) -> None:
    desk = Desk(folder)
    name = desk.admit()
    with sqlite3.connect(folder / "answers.sqlite") as db:
        db.execute("DROP TABLE answers")
    with pytest.raises(Exception, match="answers cannot be kept"):
        desk.standing(name)
