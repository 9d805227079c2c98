"""The mock reproduces the recorded traces and pages of vLLM 0.32."""

import pytest
from recordings import FOLDER
from vllm_mock.verify.metrics import verify_metrics
from vllm_mock.verify.metrics_lora import verify_lora_metrics
from vllm_mock.verify.result import Result
from vllm_mock.verify.traces import verify_traces


def differences(results: list[Result]) -> dict[str, str]:
    assert results
    return {result.file: result.difference for result in results if result.difference is not None}


def test_every_trace_is_reproduced_step_by_step() -> None:
    assert differences(list(verify_traces(FOLDER))) == {}


@pytest.mark.timeout(180)
def test_every_metrics_page_is_reproduced() -> None:
    assert differences(list(verify_metrics(FOLDER))) == {}


def test_pages_and_states_with_adapters_are_reproduced() -> None:
    assert differences(list(verify_lora_metrics(FOLDER))) == {}
