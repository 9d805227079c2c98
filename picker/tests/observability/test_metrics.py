"""The picker's metrics after requests, rejections, scrapes and changes of pools."""

import pytest
from fleet import endpoint
from picker.endpoints.metrics.connection import ScrapeFailure
from picker.observability.flow_control_metrics import FlowControlMetrics
from picker.observability.model_labels import MOST_UNDECLARED
from picker.observability.priority_labels import MOST_PRIORITIES, PriorityLabels
from picker.observability.request_counts import FOLDED
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.flowcontrol.controller import QueueStats
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.request_body import EMPTY_BODY, ParsedBody
from picker.resources.inference import RoutingStrategy
from watched import Watched, served

MODEL = {"model_name": "m", "target_model_name": "m"}
FAMILIES = ("inference_objective", "inference_model")


@pytest.mark.parametrize("prefix", FAMILIES)
def test_a_request_counts_under_both_prefixes_of_gaie(prefix: str) -> None:
    watched = Watched()
    watched.scheduled()
    assert watched.value(f"{prefix}_request_total", **MODEL) == 1
    assert watched.value(f"{prefix}_input_tokens_sum", **MODEL) == 1000
    assert watched.value(f"{prefix}_request_sizes_sum", **MODEL) == 4030


def test_a_request_runs_until_its_end_and_ends_once() -> None:
    watched = Watched()
    request = watched.scheduled()
    assert watched.value("inference_objective_running_requests", **MODEL) == 1
    watched.now_s = 3.0
    watched.end(request)
    watched.end(request)
    assert watched.value("inference_objective_running_requests", **MODEL) == 0
    assert watched.value("inference_objective_request_duration_seconds_count", **MODEL) == 1
    assert watched.value("inference_gateway_request_seconds_sum", pool="default/a") == 3.0
    assert watched.value("inference_gateway_in_flight_requests", endpoint="qwen-1") == 0


def test_histograms_are_complete_when_they_are_read() -> None:
    """Also with requests that are not added to them yet."""
    watched = Watched()
    for _ in range(FOLDED + 3):
        watched.end(watched.scheduled())
    for name in ("inference_gateway_request_seconds", "inference_extension_prefix_indexer_hit_ratio"):
        assert watched.value(f"{name}_count") == FOLDED + 3


def test_the_time_to_the_first_byte_is_that_of_sampled_responses() -> None:
    watched = Watched()
    sampled, _not_sampled = watched.scheduled(), watched.scheduled()
    watched.now_s = 0.3
    watched.respond(sampled, 200)
    watched.end(sampled)
    assert watched.value("inference_gateway_time_to_first_byte_seconds_count", pool="default/a") == 1
    assert watched.value("inference_gateway_time_to_first_byte_seconds_bucket", pool="default/a", le="0.3") == 1
    assert watched.value("inference_model_request_ttft_seconds_count", **MODEL) == 1


def test_an_error_of_the_model_server_is_counted_as_an_error() -> None:
    watched = Watched()
    for status in (200, 500):
        request = watched.scheduled()
        watched.respond(request, status)
        watched.end(request)
    assert watched.value("inference_objective_request_error_total", error_code="ModelServerError", **MODEL) == 1
    assert watched.value("inference_objective_request_total", **MODEL) == 2


def test_rerouted_requests_are_counted() -> None:
    watched = Watched()
    request = watched.scheduled()
    first, second = request.destination.split(",")
    watched.respond(request, 200, served_by=second)
    watched.end(request)
    watched.end(watched.scheduled())
    assert watched.value("inference_gateway_rerouted_total", pool="default/a") == 1
    assert request.endpoint.address == second != first


def test_cached_tokens_are_those_that_the_decision_expected() -> None:
    watched = Watched()
    watched.scheduled()
    watched.scheduled()
    assert watched.value("inference_gateway_prompt_tokens_total", pool="default/a") == 2000
    assert watched.value("inference_gateway_predicted_cached_tokens_total", pool="default/a") == 1000
    assert watched.value("inference_extension_prefix_indexer_hit_ratio_sum") == 1.0


def test_a_rejection_is_counted_by_reason_criticality_and_gaies_code() -> None:
    watched = Watched()
    assert isinstance(watched.assign(subset=frozenset()), Rejection)
    assert watched.value("inference_gateway_rejections_total", pool="default/a", reason="subset-empty") == 1
    assert watched.value("inference_gateway_rejections_total", criticality="Standard") == 1
    assert watched.value("inference_objective_request_error_total", error_code="ServiceUnavailable", **MODEL) == 1
    assert watched.value("inference_objective_request_total", **MODEL) == 1
    assert watched.value("inference_extension_scheduler_attempts_total", status="failure") == 1


def test_a_rejection_of_the_exchange_is_not_a_failed_decision() -> None:
    watched = Watched()
    request = PickRequest(str(watched.pools[0].pool.name), EMPTY_BODY, None)
    watched.director.report_rejected(request, Rejection(RejectReason.BODY_TOO_LARGE, "Too large."))
    assert (
        watched.value("inference_gateway_rejections_total", pool="default/a", reason="body-too-large", criticality="")
        == 1
    )
    assert watched.value("inference_objective_request_error_total", error_code="BadRequest") == 1
    assert watched.value("inference_extension_scheduler_attempts_total", status="failure") == 0


def test_a_rejection_of_flow_control_is_a_failed_decision() -> None:
    """It is counted by criticality and priority."""
    watched = Watched()
    name = watched.pools[0].pool.name
    body = ParsedBody("m", b"", b"", 0, 100)
    watched.director.report_rejected(PickRequest(str(name), body, None), Rejection(RejectReason.QUEUE_FULL, "Full."))
    assert watched.value("inference_gateway_rejections_total", criticality="Standard", priority="0") == 1
    assert watched.value("inference_extension_scheduler_attempts_total", status="failure") == 1


def test_priorities_beyond_the_limit_share_a_label() -> None:
    """Those of the criticalities always have their own."""
    labels = PriorityLabels()
    found = {labels.of(number) for number in range(10, 10 + 2 * MOST_PRIORITIES)}
    assert (len(found), "other" in found) == (MOST_PRIORITIES - 3 + 1, True)
    assert [labels.of(priority) for priority in (-1, 0, 1, 10, None)] == ["-1", "0", "1", "10", ""]


def test_waiting_priorities_beyond_the_limit_are_added_up() -> None:
    waiting = [QueueStats("default/a", number, 1, 10) for number in range(2 * MOST_PRIORITIES)]
    metrics = FlowControlMetrics(lambda: waiting, lambda: (), lambda: 0.0)
    families = {family.name: list(family.samples) for family in metrics.collect()}
    for requests, body_bytes in (
        ("inference_gateway_queued_requests", "inference_gateway_queued_bytes"),
        ("llm_d_epp_flow_control_queue_size", "llm_d_epp_flow_control_queue_bytes"),
    ):
        # The labels of the criticalities -1, 0 and 1, and `other`; only 0 and 1 wait.
        assert len(families[requests]) == MOST_PRIORITIES
        assert sum(sample.value for sample in families[requests]) == len(waiting)
        assert sum(sample.value for sample in families[body_bytes]) == 10 * len(waiting)


def test_a_request_is_counted_in_llm_ds_words_by_priority() -> None:
    watched = Watched()
    request = watched.scheduled()
    assert watched.value("llm_d_epp_request_total", priority="0", **MODEL) == 1
    assert watched.value("llm_d_epp_request_running", priority="0", **MODEL) == 1
    watched.end(request)
    assert watched.value("llm_d_epp_request_running", priority="0", **MODEL) == 0
    assert watched.value("llm_d_epp_request_duration_seconds_count", **MODEL) == 1
    assert watched.value("llm_d_epp_request_size_bytes_sum", **MODEL) == 4030
    assert isinstance(watched.assign(subset=frozenset()), Rejection)
    assert watched.value("llm_d_epp_request_total", priority="0", **MODEL) == 2
    assert watched.value("llm_d_epp_request_running", priority="0", **MODEL) == 0
    error = {"error_code": "ServiceUnavailable", "priority": "0", **MODEL}
    assert watched.value("llm_d_epp_request_error_total", **error) == 1


def test_a_pool_is_measured_in_llm_ds_words() -> None:
    watched = Watched()
    watched.scheduled()
    assert watched.value("llm_d_epp_ready_endpoints", name="a") == 2
    assert watched.value("llm_d_epp_average_queue_size", name="a") == 1.5
    assert watched.value("llm_d_epp_average_kv_cache_utilization", name="a") == 0.125
    assert watched.value("llm_d_epp_average_running_requests", name="a") == 0
    assert watched.value("llm_d_epp_per_endpoint_queue_size", name="a", model_server_endpoint="qwen-2") == 3
    tracked = {"endpoint_name": "qwen-1", "namespace": "default"}
    assert watched.value("llm_d_epp_inflight_requests", **tracked) == 1
    assert watched.value("llm_d_epp_inflight_tokens", **tracked) == 1000


def test_without_earlier_names_only_the_present_ones_are_reported() -> None:
    """Nothing else is missing."""
    with_earlier, without = Watched(), Watched(legacy=False)
    names: list[set[str]] = []
    for watched in (with_earlier, without):
        watched.end(watched.scheduled())
        names.append({family.name for family in watched.metrics.collect()})
    earlier = ("inference_objective_", "inference_model_", "inference_pool_", "inference_extension_")
    assert names[1] == {name for name in names[0] if not name.startswith(earlier)}
    assert {name.partition("_epp_")[2] for name in names[1]} >= {"request", "ready_endpoints", "info"}


def test_requests_to_an_unknown_pool_are_counted_without_a_pool() -> None:
    watched = Watched()
    assert isinstance(watched.assign(pool="b"), Rejection)
    assert watched.value("inference_gateway_rejections_total", pool="", reason="pool-unknown") == 1


def test_undeclared_models_beyond_the_limit_share_a_label() -> None:
    watched = Watched()
    for number in range(MOST_UNDECLARED + 20):
        watched.end(watched.scheduled(f"made-up-{number}"))
    assert watched.value("inference_objective_request_total", model_name="made-up-0") == 1
    assert watched.value("inference_objective_request_total", model_name="other", target_model_name="other") == 20
    assert watched.value("inference_objective_request_total", model_name=f"made-up-{MOST_UNDECLARED}") is None


def test_decisions_are_counted_by_strategy() -> None:
    """A change of the strategy keeps the counts."""
    watched = Watched()
    watched.scheduled()
    watched.serve(served("a", watched.endpoints, RoutingStrategy.LEAST_REQUEST))
    watched.scheduled()
    for strategy in ("DEFAULT", "LEAST_REQUEST"):
        assert watched.value("inference_gateway_decisions_total", pool="default/a", strategy=strategy) == 1
    assert watched.value("inference_gateway_pool_strategy_info", strategy="LEAST_REQUEST") == 1
    assert watched.value("inference_gateway_pool_strategy_info", strategy="DEFAULT") is None


def test_the_gauges_of_endpoints_show_in_flight_requests_and_scrapes() -> None:
    watched = Watched(now_s=2.0)
    watched.endpoints[1].scrape_interval_s, watched.endpoints[1].page_s = 0.4, 0.02
    request = watched.scheduled()
    label = request.endpoint.server
    assert watched.value("inference_gateway_in_flight_requests", pool="default/a", endpoint=label) == 1
    assert watched.value("inference_gateway_in_flight_decode_tokens", endpoint=label) == 100
    assert watched.value("inference_gateway_endpoint_queue_depth", endpoint="qwen-2") == 3
    assert watched.value("inference_gateway_endpoint_kv_cache_utilization", endpoint="qwen-2") == 0.25
    assert watched.value("inference_gateway_endpoint_metrics_age_seconds", endpoint="qwen-2") == 2.0
    assert watched.value("inference_gateway_endpoint_scrape_interval_seconds", endpoint="qwen-2") == 0.4
    assert watched.value("inference_gateway_endpoint_metrics_page_seconds", endpoint="qwen-2") == 0.02
    assert watched.value("inference_pool_average_queue_size", name="a") == 1.5
    assert watched.value("inference_pool_ready_pods", name="a") == 2
    assert watched.value("inference_pool_per_pod_queue_size", name="a", model_server_pod="qwen-2") == 3


def test_a_removed_endpoint_has_no_series() -> None:
    watched = Watched()
    watched.endpoints.pop()
    assert watched.value("inference_gateway_endpoint_queue_depth", endpoint="qwen-2") is None
    assert watched.value("inference_pool_ready_pods", name="a") == 1


def test_an_endpoint_that_was_never_scraped_has_no_metrics_age() -> None:
    watched = Watched(endpoints=[endpoint(1, scraped=False)])
    assert watched.value("inference_gateway_endpoint_metrics_age_seconds") is None
    assert watched.value("inference_gateway_endpoint_scrape_interval_seconds") is None
    assert watched.value("inference_gateway_in_flight_requests", endpoint="qwen-1") == 0


def test_several_endpoints_of_a_server_are_labelled_by_address() -> None:
    first, second = endpoint(1), endpoint(1)
    second.address = "10.0.0.1:8001"
    watched = Watched(endpoints=[first, second])
    for address in ("10.0.0.1:8000", "10.0.0.1:8001"):
        assert watched.value("inference_gateway_in_flight_requests", endpoint=f"qwen-1/{address}") == 0


def test_a_removed_pool_has_no_series_and_no_counter_decreases() -> None:
    watched = Watched()
    request = watched.scheduled()
    watched.serve()
    assert watched.value("inference_gateway_decisions_total", pool="default/a") is None
    assert watched.value("inference_objective_request_total", **MODEL) == 1
    watched.end(request)
    assert watched.value("inference_objective_running_requests", **MODEL) == 0


def test_scrapes_are_counted_by_result() -> None:
    watched = Watched()
    watched.metrics.scraped(watched.endpoints[0], None)
    watched.metrics.scraped(watched.endpoints[0], ScrapeFailure.TIMEOUT)
    assert watched.value("inference_gateway_scrapes_total", result="ok") == 1
    assert watched.value("inference_gateway_scrapes_total", result="timeout") == 1


def test_an_ended_request_keeps_no_prompt() -> None:
    """Up to 5,000 requests are in flight."""
    watched = Watched(kept=0)
    request = watched.scheduled()
    watched.end(request)
    assert (request.prefixes, request.sent, request.request.blocks, len(watched.decisions)) == (None, None, (), 0)
    assert isinstance(request, InFlightRequest)
