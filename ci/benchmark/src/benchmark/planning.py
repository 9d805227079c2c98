"""Builds targets and comparison plans from settings."""

import secrets
from functools import partial

import aiohttp

from benchmark.compare.rounds import Contender, Plan
from benchmark.load.target import Target
from benchmark.settings.commands import CompareSettings
from benchmark.settings.load import LoadSettings
from benchmark.tokens.tokenizer import Tokenizer, find_tokenizer


class CannotRun(Exception):
    """The command cannot start. The message is printed to the user."""


async def target_of(load: LoadSettings, base_url: str, request_id_prefix: str | None) -> Target:
    """The target of a run. If no model is configured, the server is asked for its first. Raises CannotRun."""
    target = Target(
        base_url=base_url,
        model=load.served_model_name or load.model or await _first_model(base_url),
        api=load.api,
        endpoint=load.endpoint,
        headers=load.headers,
        temperature=load.temperature,
        logprobs=load.logprobs,
        request_id_prefix=request_id_prefix or f"bench-{secrets.token_hex(4)}-",
    )
    try:
        _ = target.url
    except ValueError as error:
        raise CannotRun(str(error)) from None
    return target


def tokenizer_of(load: LoadSettings, target: Target) -> Tokenizer:
    """The tokenizer for prompts to `target`. Raises NoSuchTokenizer."""
    return find_tokenizer(load.model or target.model, load.tokenizer)


async def plan_of(settings: CompareSettings) -> tuple[Plan, Tokenizer]:
    """The plan of a comparison, and the tokenizer of its prompts: that of the first target's model.

    Raises CannotRun, NoSuchTokenizer."""
    load = settings.load
    contenders = [Contender(name, await target_of(load, url, f"bench-{name}-")) for name, url in settings.targets]
    tokenizer = tokenizer_of(load, contenders[0].target)
    plan = Plan(
        contenders=tuple(contenders),
        workload=partial(load.dataset, tokenizer),
        pace=load.pace,
        rounds=settings.rounds,
        seed=load.seed,
        replicas=load.replicas,
        interval_s=load.replica_interval_s,
        warmups=load.warmups,
    )
    return plan, tokenizer


async def _first_model(base_url: str) -> str:
    """The first model that the server lists. Raises CannotRun."""
    url = f"{base_url.rstrip('/')}/v1/models"
    try:
        async with aiohttp.ClientSession() as session, session.get(url, raise_for_status=True) as answer:
            return str((await answer.json())["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
        raise CannotRun(f"no --model given, and {url} does not list one: {error}") from None
