"""The scheduler's state of a request, and its decisions for a step."""

from array import array

from vllm_mock.engine.blocks import BlockHash
from vllm_mock.engine.messages import EngineRequest, FinishReason


class SequenceState:
    """The state of a request that is waiting or running.

    `engine.core` stores its times here: seconds on the caller's clock.
    """

    __slots__ = (
        "admitted",
        "arrived_s",
        "blocks",
        "cached_tokens",
        "computed",
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
        """Number of output tokens after which the request ends."""
        self.tokens = array("q", request.prompt)
        """The prompt and the generated tokens."""
        self.computed = 0
        """Number of tokens whose keys and values are in the cache."""
        self.blocks: list[int] = []
        self.hashes: list[BlockHash] = []
        """Hashes of the first full blocks of `tokens`, computed when needed."""
        self.findable = 0
        """Number of `blocks` that are in the prefix cache."""
        self.admitted = False
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache at the first admission."""
        self.hit_tokens = 0
        """Tokens found in the prefix cache at the latest admission."""
        self.preemptions = 0
        self.gone = False
        """Whether the request has ended or was aborted."""
        self.finish_reason: FinishReason | None = None
        self.arrived_s = 0.0
        """When the front end accepted the request. TTFT and end-to-end latency count from here."""
        self.queued_s = 0.0
        """When the scheduler received the request, which happens only between steps. Queue time counts from here."""
        self.scheduled_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s = 0.0
        self.preemptions_counted = 0

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens


class Schedule:
    """The work of one step."""

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
        """Number of tokens that the step can still compute."""
        self.scheduled: list[SequenceState] = []
        """Requests that compute tokens, in the order of the running list."""
        self.counts: list[int] = []
        """Number of tokens computed for each of `scheduled`."""
        self.new: list[SequenceState] = []
        """Requests admitted for the first time."""
        self.resumed: list[SequenceState] = []
        """Requests admitted again after a preemption."""
        self.preempted: list[SequenceState] = []
        self.prefill_tokens = 0
        """Tokens computed by sequences that had more to compute than their newest token."""
        self.decoding = 0
        """Number of sequences that compute only their newest token."""
        self.context_tokens = 0
        """Cached tokens that attention reads in this step."""
