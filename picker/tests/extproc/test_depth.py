"""The number of stack frames between the bytes of a connection and the cost of an endpoint."""

import traceback
from collections.abc import Sequence

import pytest
from pick_stream import PickStream, pool_director
from picker.scheduling.cost import PredictedCost

MAX_FRAMES = 14
"""From the read of the connection's bytes to the strategy's costs, both included. Judgement."""


def test_a_pick_is_few_frames_away_from_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    costs = PredictedCost.costs

    def traced(*arguments: object) -> Sequence[float]:
        names[:] = [frame.name for frame in traceback.extract_stack()[:-1]]
        return costs(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PredictedCost, "costs", traced)
    PickStream(pool_director()).pick()
    # The stream calls `CallDispatcher.receive`, as `GrpcProtocol.data_received` does on a socket.
    path = ["data_received", *names[names.index("pick") + 1 :], "costs"]
    assert len(path) <= MAX_FRAMES, path
