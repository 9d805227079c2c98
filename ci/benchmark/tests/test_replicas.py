"""Sampling the metrics of model servers."""

import asyncio
import math

import pytest
from benchmark.replicas.page import UNKNOWN, ReplicaLoad, read_page
from benchmark.replicas.spread import kv_spread, kv_usage, prefix_hit_rate
from benchmark.replicas.watch import MetricsSample, Recording, Replica, record_metrics, replica_at
from hypothesis import given
from hypothesis import strategies as st
from model_server import ModelServer, model_server
from recorded_bench import RECORDINGS


def load(kv_usage: float, queries: float = 0.0, hits: float = 0.0) -> ReplicaLoad:
    return ReplicaLoad(kv_usage, 1, 0, queries, hits, 0)


def recording_of(*samples: tuple[ReplicaLoad, ...]) -> Recording:
    replicas = tuple(Replica(str(index), "") for index in range(len(samples[0])))
    return Recording(replicas, [MetricsSample(float(index), loads) for index, loads in enumerate(samples)])


def test_the_recorded_page_of_a_loaded_server_is_read() -> None:
    """The page is from vLLM 0.32.0."""
    page = read_page((RECORDINGS / "metrics-loaded.txt").read_bytes())
    assert (page.kv_usage, page.running, page.waiting) == (0.09001956947162426, 8, 4)
    assert page.preemptions == 0
    assert page.prefix_queries > 0


@pytest.mark.parametrize(
    "page",
    [
        b'vllm:gpu_cache_usage_perc{model_name="m"} 0.25\nvllm:num_requests_running{model_name="m"} 3.0\n',
        b'vllm:gpu_cache_usage_perc{a="b"} 0.9\nvllm:kv_cache_usage_perc{a="b"} 0.25\nvllm:num_requests_running 3\n',
        b'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.0\n'
        b'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 2\n',
    ],
    ids=["before 0.9", "both names", "two engines"],
)
def test_metric_names_of_every_vllm_version_are_read(page: bytes) -> None:
    assert (read_page(page).kv_usage, read_page(page).running) == (0.25, 3)


def test_a_metric_whose_name_is_longer_is_ignored() -> None:
    page = read_page(b'vllm:num_requests_waiting_by_reason{reason="capacity"} 9\nvllm:num_requests_waiting 2\n')
    assert page.waiting == 2


@given(st.binary(max_size=200))
def test_reading_a_page_never_raises(page: bytes) -> None:
    read_page(b"vllm:kv_cache_usage_perc " + page)  # must not raise


def test_a_page_of_another_server_gives_nan() -> None:
    assert all(math.isnan(value) for value in (read_page(b"go_goroutines 3\n").kv_usage, UNKNOWN.running))


async def test_replicas_are_sampled_from_start_to_end() -> None:
    """All are sampled at the same moments. One that answers 404 is unknown."""
    async with model_server() as server, model_server() as gone:
        server.metrics = "vllm:kv_cache_usage_perc 0.5\n"
        replicas = (replica_at(server.url), replica_at(f"gone={gone.url}/absent"))
        async with record_metrics(replicas, interval_s=0.01) as recording:
            while len(recording.samples) < 4:  # noqa: ASYNC110 -- the recorder signals nothing
                await asyncio.sleep(0)
            server.metrics = "vllm:kv_cache_usage_perc 0.75\n"
    assert [replica.name for replica in replicas] == [server.url.removeprefix("http://"), "gone"]
    assert recording.samples[0].loads[0].kv_usage == 0.5
    assert recording.samples[-1].loads[0].kv_usage == 0.75
    assert all(math.isnan(sample.loads[1].kv_usage) for sample in recording.samples)
    times, usage = kv_usage(recording)
    assert usage.shape == (len(times), 2)
    assert (times[1:] > times[:-1]).all()


async def test_a_replica_that_hangs_does_not_block_sampling(server: ModelServer) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with (
        listener,
        record_metrics([replica_at(f"http://127.0.0.1:{port}")], interval_s=0.01, timeout_s=0.05) as recording,
    ):
        assert len(recording.samples) == 1
    assert all(math.isnan(sample.loads[0].running) for sample in recording.samples)


@pytest.mark.parametrize(
    ("text", "replica"),
    [
        ("http://10.0.0.1:8000", Replica("10.0.0.1:8000", "http://10.0.0.1:8000/metrics")),
        ("http://10.0.0.1:8000/", Replica("10.0.0.1:8000", "http://10.0.0.1:8000/metrics")),
        ("a=http://h:1/stats/prometheus?x=y", Replica("a", "http://h:1/stats/prometheus?x=y")),
    ],
)
def test_a_replica_is_parsed_from_its_url(text: str, replica: Replica) -> None:
    assert replica_at(text) == replica


@pytest.mark.parametrize("text", ["10.0.0.1:8000", "a=b", "ftp://h"])
def test_a_replica_without_an_http_url_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        replica_at(text)


def test_the_spread_is_the_mean_deviation_between_replicas() -> None:
    spread = kv_spread(recording_of((load(0.2), load(0.4)), (load(0.1), load(0.7))))
    assert spread.deviation == pytest.approx((0.1 + 0.3) / 2)
    assert spread.gap == pytest.approx((0.2 + 0.6) / 2)


def test_the_spread_ignores_idle_samples_and_single_replicas() -> None:
    busy = (load(0.2), load(0.4), UNKNOWN)
    idle = (load(0.0), load(0.0), load(0.0))
    single = (load(0.9), UNKNOWN, UNKNOWN)
    assert kv_spread(recording_of(busy, idle, single)) == kv_spread(recording_of(busy))


def test_without_replicas_there_is_no_spread() -> None:
    assert math.isnan(kv_spread(Recording((), [])).deviation)
    assert math.isnan(prefix_hit_rate(Recording((), [])))


def test_the_hit_rate_covers_the_lookups_of_the_recording() -> None:
    assert prefix_hit_rate(recording_of((load(0, 100, 90), UNKNOWN), (load(0, 200, 115), UNKNOWN))) == pytest.approx(
        0.25
    )
