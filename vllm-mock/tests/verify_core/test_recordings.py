"""The recordings of a real vLLM 0.32, replayed."""

import pytest
from recordings import FOLDER
from vllm_mock.verify.metrics import verify_metrics
from vllm_mock.verify.metrics_lora import verify_lora_metrics
from vllm_mock.verify.result import Result
from vllm_mock.verify.traces import verify_traces


def differences(results: list[Result]) -> dict[str, str]:
    assert results
    return {result.file: result.difference for result in results if result.difference is not None}


def test_every_trace_is_the_same_step_by_step() -> None:
    assert differences(list(verify_traces(FOLDER))) == {}


@pytest.mark.timeout(180)
def test_every_page_of_metrics_is_the_same() -> None:
    assert differences(list(verify_metrics(FOLDER))) == {}


def test_pages_and_states_with_adapters_are_the_same() -> None:
    assert differences(list(verify_lora_metrics(FOLDER))) == {}
