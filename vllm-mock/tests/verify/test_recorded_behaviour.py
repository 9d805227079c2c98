"""What the recordings hold is reproduced."""

import pytest
from recordings import FOLDER
from vllm_mock.verify.behaviour import verify_behaviour
from vllm_mock.verify.http import verify_http
from vllm_mock.verify.result import Result


def different(results: list[Result]) -> dict[str, str]:
    assert results
    return {each.file: each.difference for each in results if each.difference is not None}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("part", ["http", "flags/http", "lora/http"])
def test_every_recorded_exchange_is_the_same(part: str) -> None:
    assert different(list(verify_http(FOLDER, part))) == {}


@pytest.mark.timeout(240)
def test_every_recorded_behaviour_is_the_same() -> None:
    results = list(verify_behaviour(FOLDER))
    assert different(results) == {}
    assert not [each.file for each in results if each.note], "a behaviour without a scenario"
