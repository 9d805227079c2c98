"""Names from clients and servers contain no control characters or markup when they are shown in a terminal."""

import io
import json
import logging
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from picker.commands.top import cli
from picker.commands.top.client import NoAnswer, PickerClient
from picker.commands.top.explanation import explanation, overview
from picker.commands.top.view import Sample, view
from picker.logs import configure_logging
from picker.observability.pool_states import pool_states
from picker.printable import printable, printable_all
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import ParsedBody
from rich.console import Console
from watched import Watched

HOSTILE = "m\x1b]0;owned\x07\x1b[2J\u202e[/nope][red]\r\n:smile:"


@given(st.text(st.characters(exclude_categories=())))
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_all_texts_of_a_response_are_printable(value: object) -> None:
    assert "\\u" not in json.dumps(printable_all(value), ensure_ascii=False).replace("\\\\", "")


def shown(renderable: object) -> str:
    out = io.StringIO()
    Console(file=out, width=400).print(renderable)
    return out.getvalue()


def test_names_are_not_read_as_markup() -> None:
    watched = Watched()
    watched.endpoints[0].server = "[/nope][red]"
    watched.scheduled("x[/nope][red]")
    decisions = watched.newest()
    pools = list(pool_states(watched.pools, watched.requests.counters, 0.0))
    for page in (overview(decisions), explanation(decisions[0])):
        assert "x[/nope][red]" in shown(page)
    assert "[/nope][red]" in shown(view(Sample(0.0, pools), None, "u"))


class _Page(BaseHTTPRequestHandler):
    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Writes nothing."""


def served(page: bytes) -> tuple[HTTPServer, str]:
    server = HTTPServer(("127.0.0.1", 0), type("Page", (_Page,), {"page": page}))
    Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def test_the_client_shows_control_characters_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    watched.director.assign(_request(watched, HOSTILE))
    found = watched.newest()
    server, url = served(msgspec.json.encode(found))
    try:
        assert cli.explain(["--url", url]) == 0
        assert cli.explain(["id-1", "--url", url]) == 0
    finally:
        server.shutdown()
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert r"\x1b]0;owned\x07" in out


@pytest.mark.parametrize("page", [b"[" * 100_000, b"{}", b"\xff", b"[" + b"1," * (17 << 20) + b"1]"])
def test_an_invalid_response_is_one_error(page: bytes) -> None:
    server, url = served(page)
    try:
        with pytest.raises(NoAnswer):
            PickerClient(url).pools()
    finally:
        server.shutdown()


def test_log_lines_in_text_have_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger().level
    configure_logging("info", "text")
    try:
        structlog.get_logger("picker.test").warning("some.event", name="a\x1b[2Jb", other="\u202e")
    finally:
        structlog.reset_defaults()
        logging.getLogger().setLevel(level)
    [line] = caplog.messages
    assert line.isprintable()
    assert r"a\x1b[2Jb" in line


def _request(watched: Watched, model: str) -> PickRequest:
    body = ParsedBody(model, prompt=b"x", salt=b"", prompt_tokens=1, output_tokens=1)
    return PickRequest(str(watched.pools[0].pool.name), body, None, info=RequestInfo(HOSTILE, "id-1" + HOSTILE))
