"""The output of `picker top` and `picker explain` with an admin address that answers over HTTP."""

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
    """Serves the pages of `watched`, and yields their URL."""
    routes = pages(
        lambda: pool_states(watched.pools, watched.requests.counters, watched.now_s),
        lambda: watched.decisions,
        watched.clock,
    )
    app = TestClient(Starlette(routes=routes))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            response = app.get(self.path)
            self.send_response(response.status_code)
            self.end_headers()
            self.wfile.write(response.content)

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


def rendered(current: Sample, previous: Sample | None = None) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(current, previous, "http://picker"))
    return console.export_text()


def sample(watched: Watched, at_s: float = 0.0) -> Sample:
    return Sample(at_s, list(pool_states(watched.pools, watched.requests.counters, watched.now_s)))


def test_top_once_prints_pools_counts_and_endpoints(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    watched.scheduled()
    watched.scheduled()
    with admin_address(watched) as url:
        assert top([url, "--once"]) == 0
    out = capsys.readouterr().out
    assert "default/a  DEFAULT  2 requests  2 running  0 rejected  50% of prompt tokens cached (estimate)" in out
    assert "qwen-2" in out
    assert "25%" in out


def test_piped_output_is_not_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pod names are long."""
    monkeypatch.delenv("COLUMNS")
    pod = endpoint(1)
    pod.server = "deepseek-r1-distill-qwen-7b-l20-6c9f7d5b8c-x2v4q"
    with admin_address(Watched(endpoints=[pod])) as url:
        top([url, "--once"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if pod.server in line]
    assert line.rstrip().endswith("ago")


def test_two_samples_give_rates() -> None:
    watched = Watched()
    previous = sample(watched)
    for _ in range(10):
        watched.end(watched.scheduled())
    assert "5.0 requests/s  0 running  0.0/s rejected  90%" in rendered(sample(watched, 2.0), previous)


def test_the_scrape_interval_is_before_the_metrics_age() -> None:
    scraped = endpoint(1)
    scraped.scrape_interval_s = 0.6
    assert "every 0.6 s, 2.0 s ago" in rendered(sample(Watched(endpoints=[scraped], now_s=2.0)))


def test_endpoint_problems_replace_the_metrics_age() -> None:
    watched = Watched(endpoints=[endpoint(1, refused=True), endpoint(2, scraped=False)])
    text = rendered(sample(watched))
    assert "refuses connections" in text
    assert "never" in text
    assert "no ready endpoint" in rendered(sample(Watched(endpoints=[])))


def test_explain_shows_the_reason_of_a_pick(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    request = watched.scheduled()
    watched.now_s = 1.5
    watched.end(request)
    with admin_address(watched) as url:
        assert explain(["id-1", "--url", url]) == 0
    out = capsys.readouterr().out
    assert f"picked {request.endpoint.server}, the cheapest of 2: cost" in out
    assert "ended after 1.50 s" in out


def test_explain_shows_larger_caches_that_were_not_picked(capsys: pytest.CaptureFixture[str]) -> None:
    """The load of the endpoint outweighed its cache."""
    watched = Watched(endpoints=[endpoint(1), endpoint(2)])
    holder = watched.scheduled().endpoint
    holder.in_flight.requests = 200
    watched.scheduled()
    with admin_address(watched) as url:
        assert explain(["id", "--url", url]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"1,000 on {holder.server}, which has a higher cost" in out


def test_explain_shows_the_reason_of_a_rejection(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_unknown_request_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with admin_address(Watched()) as url:
        assert explain(["id-9", "--url", url]) == 1
    assert "no decision on id-9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:1", "kubectl port-forward"),
        ("ftp://127.0.0.1", "allowed is http://HOST:PORT"),
    ],
)
def test_unreachable_picker_is_reported_with_a_hint(url: str, message: str) -> None:
    with pytest.raises(NoAnswer, match=message):
        top([url, "--once"])
