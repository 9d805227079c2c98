"""The outcome of one request."""

from dataclasses import dataclass
from enum import StrEnum

from picker.resources.inference import Criticality


class Outcome(StrEnum):
    SERVED = "served"
    SHED = "shed"
    FAILED = "failed"


@dataclass(slots=True)
class Record:
    """A request as the client sees it. Times are in virtual seconds."""

    arrived_s: float
    criticality: Criticality
    prompt_tokens: int
    output_tokens: int
    outcome: Outcome = Outcome.FAILED
    address: str = ""
    first_s: float = 0.0
    end_s: float = 0.0
    cached_tokens: int = 0
    predicted_ttft_s: float | None = None
    """With the prompt's cached part as the picker expects it. None where it makes no prediction."""
    preemptions: int = 0

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrived_s

    @property
    def e2e_s(self) -> float:
        return self.end_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None if there is only one."""
        if self.output_tokens < 2:
            return None
        return (self.end_s - self.first_s) / (self.output_tokens - 1)
