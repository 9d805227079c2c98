"""What the scheduler keeps of a request, and what it decides in a step."""

from array import array

from vllm_mock.engine.blocks import BlockHash
from vllm_mock.engine.messages import EngineRequest, FinishReason


class Live:
    """A request that is waiting or running. `engine.core` keeps its times (seconds on the caller's clock) here, too."""

    __slots__ = (
        "admitted",
        "arrived_s",
        "blocks",
        "cached_tokens",
        "computed",
        "decodes",
        "findable",
        "finish_reason",
        "first_token_s",
        "gone",
        "hashes",
        "hit_tokens",
        "last_token_s",
        "limit",
        "lora",
        "preemptions",
        "preemptions_counted",
        "prompt_tokens",
        "queued_s",
        "request",
        "request_id",
        "scheduled_s",
        "stops",
        "tokens",
    )

    def __init__(self, request: EngineRequest, max_model_len: int) -> None:
        self.request = request
        self.request_id = request.request_id
        self.lora = request.lora
        self.stops = request.stop_token_ids
        self.prompt_tokens = len(request.prompt)
        self.limit = min(request.max_tokens, max_model_len - self.prompt_tokens)
        """Tokens after which it ends."""
        self.tokens = array("q", request.prompt)
        """The prompt and what has been generated."""
        self.computed = 0
        """Tokens whose keys and values are in the cache."""
        self.blocks: list[int] = []
        self.hashes: list[BlockHash] = []
        """Of the full blocks of `tokens`, as far as they were needed."""
        self.findable = 0
        """Of `blocks`, how many are in the prefix cache."""
        self.admitted = False
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache at the first admission."""
        self.hit_tokens = 0
        """Tokens found there at the latest admission."""
        self.preemptions = 0
        self.decodes = False
        """It got a token in its last step, so that the next one is all it has to compute."""
        self.gone = False
        """It has ended or was aborted."""
        self.finish_reason: FinishReason | None = None
        self.arrived_s = 0.0
        """Taken by the front end: TTFT and the whole time count from here."""
        self.queued_s = 0.0
        """Taken by the scheduler, which looks at arrivals between steps only: the time in the queue counts from
        here."""
        self.scheduled_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s = 0.0
        self.preemptions_counted = 0

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens


class Schedule:
    """What one step computes."""

    __slots__ = (
        "budget",
        "context_tokens",
        "counts",
        "decoding",
        "new",
        "preempted",
        "prefill_tokens",
        "resumed",
        "scheduled",
    )

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Tokens that this step could still compute."""
        self.scheduled: list[Live] = []
        """In the order of the running list."""
        self.counts: list[int] = []
        """Tokens computed for each of `scheduled`."""
        self.new: list[Live] = []
        """Admitted for the first time."""
        self.resumed: list[Live] = []
        """Admitted again after a preemption."""
        self.preempted: list[Live] = []
        self.prefill_tokens = 0
        """Tokens of sequences that had more to compute than their newest token."""
        self.decoding = 0
        """Sequences that compute their newest token alone."""
        self.context_tokens = 0
        """Tokens already in the cache that attention reads in this step."""
