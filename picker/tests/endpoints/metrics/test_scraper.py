"""Times of scrapes and their failures, in virtual time and on a simulated network."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

import pytest
from fleet import begin
from picker.endpoints.endpoint import MAX_UNSCRAPED_BURST, Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.connection import ScrapeFailure
from picker.endpoints.metrics.schedule import JITTER, ScrapeIntervals
from picker.endpoints.metrics.scraper import BATCH_ENDPOINTS, MAX_ENTRIES, Scraper, ScrapeSettings
from structlog.testing import capture_logs

pytestmark = pytest.mark.looptime

PAGE = b"vllm:num_requests_waiting 4\n"
SETTINGS = ScrapeSettings(ScrapeIntervals(1.0, retry_after_s=3.0), timeout_s=0.5)
OFTEN = ScrapeSettings(ScrapeIntervals(0.2), timeout_s=5.0)


def answer(page: bytes = PAGE, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (head, len(page), page)


@dataclass
class FakeServer(asyncio.WriteTransport):
    """A model server, and the only connection to it. It answers each request after `latency_s`, or not at all."""

    answer: bytes | None = answer()
    latency_s: float = 0.01
    connect_s: float = 0.0
    refuses: OSError | None = None
    hangs_up: bool = False
    """Closes idle connections: the next request gets only the end of the connection."""
    asked_at_s: list[float] = field(default_factory=list)
    asked_here: int = 0
    """Requests of the current connection."""
    connects: int = 0
    protocol: asyncio.Protocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        loop = asyncio.get_running_loop()
        assert bytes(data).startswith(b"GET /metrics HTTP/1.1\r\nHost: 10.0.0.")
        self.asked_at_s.append(loop.time())
        protocol = self.protocol
        assert protocol is not None
        self.asked_here += 1
        if self.hangs_up and self.asked_here > 1:
            loop.call_soon(protocol.connection_lost, None)
        elif self.answer is not None:
            loop.call_later(self.latency_s, self._answer, protocol, self.answer)

    def _answer(self, protocol: asyncio.Protocol, data: bytes) -> None:
        if self.protocol is protocol:
            protocol.data_received(data)

    def abort(self) -> None:
        self.protocol = None


class Network:
    """Replaces the event loop's connections."""

    def __init__(self, settings: ScrapeSettings = SETTINGS) -> None:
        self.servers: dict[str, FakeServer] = {}
        self.seen: list[tuple[Endpoint, ScrapeFailure | None]] = []
        self.scraper = Scraper(
            settings, InFlightTracker(), Random(1), lambda endpoint, failure: self.seen.append((endpoint, failure))
        )

    def endpoint(self, number: int, server: FakeServer) -> Endpoint:
        """An endpoint that is scraped from now on."""
        self.servers[f"10.0.0.{number}"] = server
        endpoint = Endpoint(f"10.0.0.{number}:8000", f"qwen-{number}")
        self.scraper.add(endpoint)
        return endpoint

    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        server = self.servers[host]
        assert port == 8000
        server.connects += 1
        await asyncio.sleep(server.connect_s)
        if server.refuses is not None:
            raise server.refuses
        server.asked_here = 0
        server.protocol = factory()
        server.protocol.connection_made(server)

    def failures(self) -> list[ScrapeFailure | None]:
        return [failure for _, failure in self.seen]


def gaps(server: FakeServer) -> list[float]:
    """Times between two requests."""
    return [later - earlier for earlier, later in pairwise(server.asked_at_s)]


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    created = Network()
    connect: Callable[..., Awaitable[None]] = created.connect
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)
    return created


async def test_an_endpoint_may_have_an_interval_of_its_own(network: Network) -> None:
    """A change takes effect while its scrapes run. The metrics stay."""
    server, other = FakeServer(), FakeServer()
    endpoint = network.endpoint(1, server)
    network.endpoint(2, other)
    network.scraper.add(endpoint, 4.0)
    await asyncio.sleep(20)
    assert 4 <= len(server.asked_at_s) <= 6
    assert len(other.asked_at_s) >= 18
    asked, metrics = len(server.asked_at_s), endpoint.metrics
    network.scraper.add(endpoint, 0.5)
    assert endpoint.metrics is metrics is not None
    await asyncio.sleep(10)
    assert 18 <= len(server.asked_at_s) - asked <= 24
    assert len(other.asked_at_s) <= 36
    asked = len(server.asked_at_s)
    network.scraper.add(endpoint)
    await asyncio.sleep(10)
    assert len(server.asked_at_s) - asked <= 12


async def test_an_endpoint_is_scraped_once_in_each_interval(network: Network) -> None:
    """Over one connection, with jitter. The first scrape is within the first interval."""
    server = FakeServer()
    endpoint = network.endpoint(1, server)
    await asyncio.sleep(20)
    assert server.asked_at_s[0] <= 1.0
    # A turn may come early by a tenth of the interval, to share the wake-up of another.
    assert min(gaps(server)) >= 1.0 - JITTER - 0.1
    assert max(gaps(server)) <= 1.0 + JITTER
    assert len(set(gaps(server))) > 1
    assert server.connects == 1
    assert endpoint.metrics is not None
    assert endpoint.metrics.queue_depth == 4


async def test_an_idle_server_is_scraped_once_a_second(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per interval again as soon as its metrics or this picker's in-flight count show a request."""
    often = Network(OFTEN)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", often.connect)
    resting, busy = FakeServer(answer(b"vllm:num_requests_waiting 0\n"), latency_s=0.001), FakeServer()
    endpoint = often.endpoint(1, resting)
    often.endpoint(2, busy)
    await asyncio.sleep(20)
    assert 16 <= len(resting.asked_at_s) <= 24
    assert 80 <= len(busy.asked_at_s) <= 125
    endpoint.in_flight.requests += 1
    resting.asked_at_s.clear()
    await asyncio.sleep(20)
    assert 70 <= len(resting.asked_at_s) <= 125
    often.scraper.close()


async def test_a_scrape_has_its_time_and_the_in_flight_count_of_that_time(network: Network) -> None:
    """The time of the page's arrival, not of its request."""
    endpoint = network.endpoint(1, FakeServer(latency_s=0.3))
    await asyncio.sleep(1.2)
    endpoint.in_flight.requests = 7
    await asyncio.sleep(1.2)
    assert endpoint.metrics is not None
    assert endpoint.metrics.in_flight_at_scrape == 7
    assert asyncio.get_running_loop().time() - endpoint.metrics.scraped_at_s < 1.2


async def test_a_server_that_hangs_times_out_and_is_retried_after_a_pause(network: Network) -> None:
    """A connection costs more than a scrape."""
    server = FakeServer(answer=None)
    network.endpoint(1, server)
    await asyncio.sleep(1.0 + 0.5 + 0.01)
    assert network.failures() == [ScrapeFailure.TIMEOUT]
    await asyncio.sleep(4.0)
    first, second = server.asked_at_s
    assert second - first == pytest.approx(0.5 + 3.0, abs=0.1)
    assert server.connects == 2


async def test_a_connection_attempt_times_out(network: Network) -> None:
    """The timeout counts from the attempt."""
    server = FakeServer(connect_s=100)
    network.endpoint(1, server)
    await asyncio.sleep(1.51)
    assert network.failures() == [ScrapeFailure.TIMEOUT]
    assert server.asked_at_s == []


async def test_old_metrics_stay_when_scrapes_fail(network: Network) -> None:
    """Their age shows the failure. The in-flight count still allows to use the endpoint."""
    server = FakeServer()
    endpoint = network.endpoint(1, server)
    await asyncio.sleep(1.1)
    before = endpoint.metrics
    assert before is not None
    server.answer = None
    await asyncio.sleep(10)
    assert endpoint.metrics is before
    assert endpoint.unreachable_since_s is None


async def test_an_endpoint_that_never_answered_has_no_metrics(network: Network) -> None:
    """It exists nevertheless."""
    endpoint = network.endpoint(1, FakeServer(answer=None))
    await asyncio.sleep(10)
    assert endpoint.metrics is None


@pytest.mark.parametrize(
    ("server", "failure"),
    [
        (FakeServer(refuses=ConnectionRefusedError(111, "refused")), ScrapeFailure.REFUSED),
        (FakeServer(refuses=OSError(113, "no route to host")), ScrapeFailure.UNREACHABLE),
        (FakeServer(answer=b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), ScrapeFailure.STATUS),
        (FakeServer(answer=b"hello\r\n"), ScrapeFailure.NOT_HTTP),
        (FakeServer(answer=answer(b"python_info 1\n")), ScrapeFailure.NOT_METRICS),
        (FakeServer(answer=answer(b"x" * (5 << 20))), ScrapeFailure.TOO_LARGE),
    ],
)
async def test_each_failure_has_its_name(network: Network, server: FakeServer, failure: ScrapeFailure) -> None:
    """The scraper continues."""
    endpoint = network.endpoint(1, server)
    await asyncio.sleep(8)
    assert set(network.failures()) == {failure}
    assert len(network.seen) >= 2
    assert endpoint.metrics is None


async def test_a_refused_endpoint_is_marked_until_it_answers(network: Network) -> None:
    """Since the first refusal, so that it is ranked last."""
    server = FakeServer(refuses=ConnectionRefusedError(111, "refused"))
    endpoint = network.endpoint(1, server)
    await asyncio.sleep(1.0)
    since_s = endpoint.unreachable_since_s
    assert since_s is not None
    await asyncio.sleep(4.0)
    assert endpoint.unreachable_since_s == since_s
    server.refuses = None
    await asyncio.sleep(4.0)
    assert endpoint.unreachable_since_s is None
    assert endpoint.metrics is not None


async def test_a_stale_connection_is_replaced_within_the_scrape(network: Network) -> None:
    """No scrape fails because a server closes idle connections."""
    server = FakeServer(hangs_up=True)
    network.endpoint(1, server)
    await asyncio.sleep(5)
    assert set(network.failures()) == {None}
    assert server.connects >= 4


async def test_a_server_slower_than_the_interval_is_scraped_as_it_answers(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One scrape at a time, more often than once per timeout."""
    slow = Network(OFTEN)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", slow.connect)
    server = FakeServer(latency_s=1.5)
    slow.endpoint(1, server)
    await asyncio.sleep(20)
    assert gaps(server) == pytest.approx([1.5] * len(gaps(server)))


async def test_endpoints_share_wake_ups_and_none_waits_for_another(network: Network) -> None:
    """Batches are small, and a server that hangs blocks no other scrape."""
    hanging = FakeServer(answer=None)
    network.endpoint(0, hanging)
    servers = [FakeServer() for _ in range(40)]
    for number, server in enumerate(servers):
        network.endpoint(number + 1, server)
    await asyncio.sleep(10)
    for server in servers:
        assert max(gaps(server)) <= 1.0 + JITTER
    at = [moment for server in servers for moment in server.asked_at_s[1:]]
    batches = [at.count(moment) for moment in set(at)]
    assert max(batches) <= BATCH_ENDPOINTS
    assert len(batches) < len(at) / 2


async def test_a_removed_endpoint_is_not_scraped(network: Network) -> None:
    """Its metrics stay. A scrape under way is dropped."""
    server = FakeServer(latency_s=0.3)
    first_turn_s = Random(1).random() * SETTINGS.intervals.interval_s
    endpoint = network.endpoint(1, server)
    await asyncio.sleep(first_turn_s + 0.01)
    network.scraper.remove(endpoint)
    network.scraper.remove(endpoint)
    await asyncio.sleep(5)
    assert len(server.asked_at_s) == 1
    assert network.seen == []
    assert server.protocol is None


async def test_adding_an_endpoint_again_does_nothing(network: Network) -> None:
    """It is not scraped twice as often."""
    server = FakeServer()
    endpoint = network.endpoint(1, server)
    network.scraper.add(endpoint)
    await asyncio.sleep(10)
    assert len(server.asked_at_s) <= 12


async def test_a_closed_scraper_requests_nothing(network: Network) -> None:
    """No timer is left behind."""
    server = FakeServer()
    network.endpoint(1, server)
    await asyncio.sleep(2)
    network.scraper.close()
    requested = len(server.asked_at_s)
    await asyncio.sleep(5)
    assert len(server.asked_at_s) == requested


async def test_the_log_reports_once_that_metrics_stop_and_resume(network: Network) -> None:
    """A single failure is not logged."""
    server = FakeServer(answer=None)
    network.endpoint(1, server)
    with capture_logs() as logs:
        await asyncio.sleep(20)
        server.answer = answer()
        await asyncio.sleep(10)
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("endpoint.metrics_stopped", "timeout"),
        ("endpoint.metrics_resumed", None),
    ]


async def test_a_fault_on_a_page_is_logged_and_ends_no_later_scrape(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not count as a timeout."""

    def fail(*_: object) -> None:
        raise OverflowError("intermediate overflow in fsum")

    monkeypatch.setattr(InFlightTracker, "scraped", fail)
    server = FakeServer()
    network.endpoint(1, server)
    with capture_logs() as logs:
        await asyncio.sleep(20)
    assert len(server.asked_at_s) >= 5
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["endpoint.metrics_unread"]
    assert network.failures() == [ScrapeFailure.NOT_METRICS] * len(network.failures())


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.intervals])
@pytest.mark.parametrize("value", [0.0, -1.0, 0.001])
def test_settings_that_would_keep_a_process_busy_are_rejected(
    settings: ScrapeSettings | ScrapeIntervals, value: float
) -> None:
    """The error names the setting."""
    name = "timeout_s" if isinstance(settings, ScrapeSettings) else "interval_s"
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        replace(settings, **{name: value})


async def test_a_page_that_takes_long_is_requested_rarely(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it shows what the in-flight tracker has. The time counts from the request, not from the connection."""
    often = Network(OFTEN)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", often.connect)
    page = b"vllm:num_requests_running 3\nvllm:num_requests_waiting 0\n"
    dear = FakeServer(answer(page), latency_s=0.02, connect_s=0.1)
    cheap = FakeServer(answer(page), latency_s=0.0005, connect_s=0.1)
    for number, server in enumerate((dear, cheap)):
        often.endpoint(number, server).in_flight.requests = 3
    await asyncio.sleep(20)
    assert 18 <= len(dear.asked_at_s) <= 26
    assert 85 <= len(cheap.asked_at_s) <= 115
    dear.answer = answer(page.replace(b"3", b"30"))
    await asyncio.sleep(2)
    dear.asked_at_s.clear()
    await asyncio.sleep(20)
    # 20 ms are 5 % of 0.4 s.
    assert 43 <= len(dear.asked_at_s) <= 57


async def test_an_endpoint_that_outruns_its_scrape_is_scraped_soon(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, however many requests follow."""
    often = Network(OFTEN)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", often.connect)
    server = FakeServer(answer(b"vllm:num_requests_waiting 0\n"), latency_s=0.001)
    endpoint = often.endpoint(1, server)
    await asyncio.sleep(10)
    await asyncio.sleep(server.asked_at_s[-1] + 0.3 - asyncio.get_running_loop().time())
    before = len(server.asked_at_s)
    for _ in range(2 * MAX_UNSCRAPED_BURST):
        begin(often.scraper.tracker, endpoint, 10, 10)
    await asyncio.sleep(0.01)
    assert len(server.asked_at_s) == before + 1
    await asyncio.sleep(0.15)
    assert len(server.asked_at_s) == before + 1


async def test_turns_that_are_no_longer_valid_are_removed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long timeout leaves many of them."""
    patient = Network(ScrapeSettings(ScrapeIntervals(0.01), timeout_s=1000.0))
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", patient.connect)
    server = FakeServer(latency_s=0.0001)
    patient.endpoint(1, server)
    await asyncio.sleep(5)
    assert len(server.asked_at_s) > 10 * MAX_ENTRIES
    assert len(patient.scraper._turns) <= MAX_ENTRIES + 1  # pyright: ignore[reportPrivateUsage]
