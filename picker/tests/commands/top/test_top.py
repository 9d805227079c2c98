"""`picker top` and `picker explain`: what they print, against an admin address that answers over HTTP."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fleet import endpoint
from picker.commands.top.cli import explain, top
from picker.commands.top.client import NoAnswer
from picker.commands.top.view import Sample, view
from picker.observability.admin_pages import pages
from picker.observability.pool_states import pool_states
from rich.console import Console
from starlette.applications import Starlette
from starlette.testclient import TestClient
from watched import Watched


@contextmanager
def admin_address(watched: Watched) -> Generator[str]:
    """Serves the pages of `watched`; its URL."""
    routes = pages(
        lambda: pool_states(watched.pools, watched.requests.counters, watched.now_s),
        lambda: watched.decisions,
        watched.clock,
    )
    app = TestClient(Starlette(routes=routes))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = app.get(self.path)
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:  # type: ignore[override]
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def shown(now: Sample, before: Sample | None = None) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(now, before, "http://picker"))
    return console.export_text()


def sample(watched: Watched, at_s: float = 0.0) -> Sample:
    return Sample(at_s, list(pool_states(watched.pools, watched.requests.counters, watched.now_s)))


def test_top_once_prints_the_pools_their_counts_and_their_endpoints(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    watched.scheduled()
    watched.scheduled()
    with admin_address(watched) as url:
        assert top([url, "--once"]) == 0
    out = capsys.readouterr().out
    assert "default/a  DEFAULT  2 requests  2 running  0 rejected  50% of prompt tokens thought cached" in out
    assert "qwen-2" in out
    assert "25%" in out


def test_what_goes_into_a_pipe_is_not_cut_at_the_width_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods' names are long."""
    monkeypatch.delenv("COLUMNS")
    pod = endpoint(1)
    pod.server = "deepseek-r1-distill-qwen-7b-l20-6c9f7d5b8c-x2v4q"
    with admin_address(Watched(endpoints=[pod])) as url:
        top([url, "--once"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if pod.server in line]
    assert line.rstrip().endswith("ago")


def test_two_looks_make_rates() -> None:
    watched = Watched()
    before = sample(watched)
    for _ in range(10):
        watched.end(watched.scheduled())
    assert "5.0 requests/s  0 running  0.0/s rejected  90%" in shown(sample(watched, 2.0), before)


def test_what_is_wrong_with_an_endpoint_is_said_where_its_age_would_stand() -> None:
    watched = Watched(endpoints=[endpoint(1, refused=True), endpoint(2, scraped=False)])
    text = shown(sample(watched))
    assert "refuses connections" in text
    assert "never" in text
    assert "no ready endpoint" in shown(sample(Watched(endpoints=[])))


def test_explain_tells_why_a_request_went_where_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    request = watched.scheduled()
    watched.now_s = 1.5
    watched.end(request)
    with admin_address(watched) as url:
        assert explain(["id-1", "--url", url]) == 0
    out = capsys.readouterr().out
    assert f"picked {request.endpoint.server}, the cheapest of 2: cost" in out
    assert "ended after 1.50 s" in out


def test_explain_tells_of_caches_that_were_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Where load weighed more."""
    watched = Watched(endpoints=[endpoint(1), endpoint(2)])
    holder = watched.scheduled().endpoint
    holder.in_flight.requests = 200
    watched.scheduled()
    with admin_address(watched) as url:
        assert explain(["id", "--url", url]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"1,000 on {holder.server}, which would have cost more" in said


def test_explain_tells_why_a_request_was_turned_away(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    watched.assign(subset=frozenset())
    with admin_address(watched) as url:
        assert explain(["id-1", "--url", url]) == 0
    assert "rejected with 503, subset-empty: None of the endpoints" in capsys.readouterr().out


def test_explain_without_an_id_lists_the_newest(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    for number in range(4):
        watched.scheduled(f"model-{number}")
    with admin_address(watched) as url:
        assert explain(["--url", url, "--newest", "2"]) == 0
    out = capsys.readouterr().out
    assert [number for number in range(4) if f"model-{number}" in out] == [2, 3]


def test_a_request_that_the_picker_does_not_remember(capsys: pytest.CaptureFixture[str]) -> None:
    with admin_address(Watched()) as url:
        assert explain(["id-9", "--url", url]) == 1
    assert "no decision on id-9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:1", "kubectl port-forward"),
        ("ftp://127.0.0.1", "allowed is http://HOST:PORT"),
    ],
)
def test_where_no_picker_answers_the_user_is_told_what_to_do(url: str, said: str) -> None:
    with pytest.raises(NoAnswer, match=said):
        top([url, "--once"])
