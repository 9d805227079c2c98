"""Mutation tests of the engine: with each mutation at least one recording must differ."""

import inspect
import sys
import textwrap
from dataclasses import dataclass, replace

import pytest
from recordings import FOLDER
from vllm_mock.engine.blocks import BlockPool
from vllm_mock.engine.core import Engine
from vllm_mock.engine.scheduler import Scheduler
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.verify.traces import verify_traces


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in a method's source."""

    rule: str
    of: type
    method: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "a block is taken ahead for the next token",
        Scheduler,
        "schedule",
        "live.computed + count > len(live.blocks) * size and not self._take_blocks(live, count, step)",
        "live.computed + count + 1 > len(live.blocks) * size and not self._take_blocks(live, count + 1, step)",
    ),
    Mutation("the block freed last is reused first", BlockPool, "take", "popitem(last=False)", "popitem(last=True)"),
    Mutation("a sequence's first blocks are freed first", BlockPool, "release", "in reversed(blocks)", "in blocks"),
    Mutation(
        "unhashed blocks are reused last", BlockPool, "release", "self._free.move_to_end(block, last=False)", "pass"
    ),
    Mutation("the null block is allocated", BlockPool, "__init__", "num_gpu_blocks - 1", "num_gpu_blocks"),
    Mutation("the oldest request is preempted", Scheduler, "_take_blocks", "self.running.pop()", "self.running.pop(0)"),
    Mutation(
        "preempted requests go to the end of the queue", Scheduler, "_preempt", "queued.appendleft", "queued.append"
    ),
    Mutation(
        "a lookup covers one token too many", Scheduler, "_first_tokens", "(length - 1) // size", "length // size"
    ),
    Mutation(
        "a lookup covers one block too few",
        Scheduler,
        "_first_tokens",
        "(length - 1) // size",
        "(length - 1) // size - 1",
    ),
    Mutation(
        "admission requires the first chunk's blocks only",
        Scheduler,
        "_first_tokens",
        "-(-length // size) - len(cached)",
        "-(-(len(cached) * size + count) // size) - len(cached)",
    ),
    Mutation(
        "a request that does not fit is skipped",
        Scheduler,
        "_admit",
        "if count is None:\n            break",
        "if count is None:\n            passed_over.append(queue.popleft())\n            continue",
    ),
    Mutation(
        "blocks enter the prefix cache a step late",
        Scheduler,
        "_compute",
        "self._make_findable(live, computed)",
        "self._make_findable(live, computed - count)",
    ),
    Mutation(
        "decodes use no budget",
        Scheduler,
        "_compute",
        "step.budget -= count",
        "step.budget -= count if count > 1 else 0",
    ),
    Mutation(
        "requests end a token late", Scheduler, "complete", "position + 1 >= live.limit", "position >= live.limit"
    ),
    Mutation("hits are counted twice", EngineMetrics, "looked_up", "+= cached_tokens", "+= 2 * cached_tokens"),
    Mutation(
        "preemptions are not counted", Engine, "_count", "if live.preemptions > live.preemptions_counted", "if False"
    ),
    Mutation(
        "a resumed request counts as new",
        Engine,
        "_count",
        "if live.first_token_s is None:",
        "if live.first_token_s is None or live.preemptions > live.preemptions_counted:",
    ),
    Mutation("steps without output are observed", Engine, "_count", "if given or lost:", "if True:"),
    Mutation(
        "cached tokens count as computed",
        Engine,
        "_first_token",
        "live.prompt_tokens - live.cached_tokens\n",
        "live.prompt_tokens\n",
    ),
    Mutation(
        "queue time begins at arrival",
        Engine,
        "_queue_arrived",
        "live.queued_s = now_s",
        "pass",
    ),
]


def apply(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    source = textwrap.dedent(inspect.getsource(getattr(mutation.of, mutation.method))) + "\n"
    assert mutation.old in source
    scope = dict(vars(sys.modules[mutation.of.__module__]))
    exec(source.replace(mutation.old, mutation.new), scope)
    monkeypatch.setattr(mutation.of, mutation.method, scope[mutation.method])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_a_mutation_makes_a_recording_differ(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(mutation, monkeypatch)
    assert any(result.difference is not None for result in verify_traces(FOLDER))


def test_unchanged_rules_make_no_recording_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing a method by its own source has no effect."""
    for mutation in {(mutation.of, mutation.method): mutation for mutation in MUTATIONS}.values():
        apply(replace(mutation, new=mutation.old), monkeypatch)
    assert all(result.difference is None for result in verify_traces(FOLDER))
