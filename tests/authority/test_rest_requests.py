"""What the REST interface makes of malformed, oversized and unexpected requests."""

import asyncio
import json
import logging

import pytest

from legation.authority.model import Role
from legation.authority.rest import application, reading
from legation.authority.rest.problems import TITLES, http_problem, problem_of
from legation.causes import Cause, Failure
from legation.errors import (
    OUTCOMES,
    Conflict,
    InternalError,
    InvalidInput,
    LegationError,
    LimitExceeded,
    VerificationError,
)


@pytest.mark.parametrize(
    ("raw", "status", "detail"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"nul", 400, "not JSON"),
        (b'{"a":1,"a":2}', 400, "a JSON key occurs twice"),
        (b"NaN", 400, "NaN is not JSON"),
        (b"[" * 200 + b"]" * 200, 413, "nested too deep"),
        (b"[" * 100_000, 413, "nested too deep"),
        (b"9" * 5000, 400, "too many digits"),
        (b'"\\ud800"', 400, "lone surrogate"),
        (b'"\xed\xa0\x80"', 400, "not UTF-8"),
        (b"\xff", 400, "not UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), 400, "not JSON"),
        (b" " * ((1 << 20) + 1), 413, "at most 1048576 bytes"),
    ],
)
async def test_a_malformed_body_is_refused_with_its_reason(admin, raw, status, detail):
    """No body brings more than a problem of one line, and the connection goes on."""
    answer = await admin.ask(
        "POST", "/v1/entries", raw=raw, headers={"content-type": "application/json"}
    )
    assert answer.status == status
    assert answer.code == ("limit_exceeded" if status == 413 else "invalid_input")
    assert detail in answer.json["detail"]
    assert (await admin.ask("GET", "/v1/status")).status == 200


async def test_a_chunked_body_is_cut_off_at_the_limit(rest, admin):
    """Without Content-Length the limit is enforced while reading."""

    def endless():
        for _ in range(40):
            yield b" " * 65536

    answer = await admin.ask(
        "POST", "/v1/entries", raw=endless(), headers={"content-type": "application/json"}
    )
    assert (answer.status, answer.code) == (413, "limit_exceeded")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
async def test_a_body_of_another_media_type_is_415(admin, media_type):
    """Only JSON is read; a browser's form cannot reach a handler."""
    answer = await admin.ask("POST", "/v1/entries", raw=b"{}", headers={"content-type": media_type})
    assert (answer.status, answer.code) == (415, "invalid_input")
    charset = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await admin.ask("POST", "/v1/entries", raw=b"{}", headers=charset)).status == 400


async def test_unknown_paths_and_methods_are_problems_too(admin):
    """404 and 405 come as problems; 405 names what is allowed; a slash is not forgiven."""
    nowhere = await admin.ask("GET", "/v1/nowhere")
    assert (nowhere.status, nowhere.code) == (404, "not_found")
    assert (await admin.ask("GET", "/v1/entries/")).status == 404
    wrong = await admin.ask("PUT", "/v1/entries")
    assert (wrong.status, wrong.code) == (405, "invalid_input")
    assert {method.strip() for method in wrong.headers["allow"].split(",")} == {
        "GET",
        "HEAD",
        "POST",
    }
    assert (await admin.ask("HEAD", "/v1/entries")).body == b""


async def test_every_answer_forbids_caching_and_sniffing(admin):
    """Success and refusal alike carry the security headers, and none names the server."""
    for path in ("/v1/status", "/v1/nowhere", "/v1/openapi.json"):
        headers = (await admin.ask("GET", path)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        assert "date" in headers


async def test_a_defect_is_500_with_an_incident_that_the_log_explains(rest, admin, caplog):
    """The caller learns a name for it and nothing else; the log has both name and cause."""
    rest.authority.defect = ZeroDivisionError("s3cret detail")
    with caplog.at_level(logging.ERROR):
        answer = await admin.ask("GET", "/v1/status")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"s3cret" not in answer.body
    assert f"incident {answer.json['incident']}" in caplog.text
    assert "s3cret detail" in caplog.text
    rest.authority.defect = InternalError("an invariant broke")
    answer = await admin.ask("GET", "/v1/status")
    assert answer.json["incident"]
    rest.authority.defect = None
    assert (await admin.ask("GET", "/v1/status")).status == 200


async def test_a_handler_that_takes_too_long_is_504_and_goes_on(rest, admin, monkeypatch):
    """The caller is told to look before repeating; the work is not cut in half."""
    monkeypatch.setattr(application, "HANDLER_S", 0.05)
    finished = asyncio.Event()
    release = asyncio.Event()

    async def slow(self):
        await release.wait()
        finished.set()
        return ()

    monkeypatch.setattr(type(rest.authority.services().tokens), "list", slow)
    answer = await admin.ask("GET", "/v1/tokens")
    assert (answer.status, answer.code) == (504, "timed_out")
    assert "before you repeat it" in answer.json["remedy"]
    release.set()
    await asyncio.wait_for(finished.wait(), 5)


async def test_work_that_fails_after_its_time_is_logged(rest, admin, monkeypatch, caplog):
    """Nobody waits for the answer any more, so the log is the only place to tell it."""
    monkeypatch.setattr(application, "HANDLER_S", 0.05)
    release, logged = asyncio.Event(), asyncio.Event()

    async def fails(self):
        await release.wait()
        asyncio.get_running_loop().call_soon(logged.set)
        raise Conflict("too late")

    monkeypatch.setattr(type(rest.authority.services().tokens), "list", fails)
    assert (await admin.ask("GET", "/v1/tokens")).code == "timed_out"
    release.set()
    await asyncio.wait_for(logged.wait(), 5)
    await asyncio.sleep(0)
    assert "a request failed after its time: too late" in caplog.text


async def test_a_body_that_never_comes_is_408(rest, monkeypatch):
    """A caller that announces a body and sends none is answered and let go."""
    monkeypatch.setattr(reading, "BODY_S", 0.05)
    context = rest.context(rest.enlist("alice", Role.ADMIN))
    reader, writer = await asyncio.open_connection("localhost", rest.port, ssl=context)
    writer.write(
        b"POST /v1/entries HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 10\r\n\r\n{"
    )
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


def test_every_error_has_a_title_and_its_status_from_the_one_table() -> None:
    """The mapping is total: each branch of the tree has a title, a status and its code."""
    assert set(TITLES) == set(OUTCOMES)
    for kind, outcome in OUTCOMES.items():
        error = kind("m") if kind is not VerificationError else VerificationError([FAILURE])
        problem = problem_of(error)
        assert (problem.status, problem.code) == (outcome.http, kind.code)
        assert json.loads(problem.to_json())["title"] == TITLES[kind]


FAILURE = Failure(cause=Cause.CERTIFICATE_EXPIRED, detail="a day ago", subject="leaf")


def test_a_verification_error_lists_every_failed_check() -> None:
    """Failures are data in the problem, with the words of `causes`."""
    problem = json.loads(problem_of(VerificationError([FAILURE])).to_json())
    assert problem["failures"] == [
        {"cause": "certificate_expired", "detail": "a day ago", "subject": "leaf"}
    ]
    assert "failures" not in json.loads(problem_of(InvalidInput("x")).to_json())


def test_an_error_of_a_kind_not_in_the_table_takes_its_nearest_ancestors_place() -> None:
    """A subclass of an error is that error to the outside."""

    class Narrower(LimitExceeded):
        code = "narrower"

    assert problem_of(Narrower("x")).status == 413
    assert problem_of(LegationError("lone \ud800")).to_json()
    assert http_problem(431, "x").code == "limit_exceeded"
