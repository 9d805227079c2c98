"""`vllm-mock serve`: builds and serves the configured replicas."""

import asyncio
import os
import sys

from command_settings import InvalidSettings

from vllm_mock.api.api_server import ApiServer
from vllm_mock.api.running import Listener, listen, serve_until_signal
from vllm_mock.engine.core import Engine
from vllm_mock.engine.driver import AsyncEngine
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import CARDS, StepTime
from vllm_mock.faults.injector import Faults
from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.forced_outputs import ForcedOutputs
from vllm_mock.generation.loras import Adapters, AdaptersOnDisk, Loras
from vllm_mock.generation.replica import Options, Replica
from vllm_mock.generation.request_body import LoadLoraBody
from vllm_mock.kv_events.config import InvalidKvEventsConfig
from vllm_mock.kv_events.publishing import KvEvents, kv_events
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.settings import ServeSettings
from vllm_mock.tokens.choose import choose_tokenizer
from vllm_mock.tokens.tokenizer import Tokenizer

_CRASHED = 1
"""Exit status."""


async def serve(settings: ServeSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises PortTaken, InvalidTokenizer, InvalidSettings."""
    tokenizer = choose_tokenizer(settings.tokenizer)
    api_servers = [build_api_server(settings, tokenizer, number=number) for number in range(settings.replicas)]
    await asyncio.sleep(settings.startup_delay)
    first = settings.port
    ports = [first + number if first else 0 for number in range(settings.replicas)]
    listeners = [
        Listener(api_server, listen(settings.host, port)) for api_server, port in zip(api_servers, ports, strict=True)
    ]
    if settings.crash_after is not None:
        asyncio.get_running_loop().call_later(settings.crash_after, os._exit, _CRASHED)
    port_list = ", ".join(str(listener.port) for listener in listeners)
    print(f"serving {settings.names[0]} on {settings.host}, port {port_list}", file=sys.stderr, flush=True)
    await serve_until_signal(listeners, settings.shutdown_timeout)


def build_api_server(
    settings: ServeSettings,
    tokenizer: Tokenizer,
    forced_outputs: ForcedOutputs | None = None,
    adapters: Adapters | None = None,
    number: int = 0,
) -> ApiServer:
    """Builds the server of replica `number`. Raises InvalidSettings."""
    config = engine_config(settings)
    forced_outputs = forced_outputs or ForcedOutputs(tokenizer)
    adapters = adapters or AdaptersOnDisk(settings.check_lora_paths)
    metrics = EngineMetrics(config, settings.names[0], settings.metrics_profile)
    events = _kv_events(settings, number)
    engine = AsyncEngine(
        Engine(config, forced_outputs, _step_time(settings), metrics, events.log if events is not None else None),
        settings.time_scale,
        events.publisher if events is not None else None,
    )
    replica = Replica(settings.names, engine, tokenizer, forced_outputs, _loras(settings, adapters), _options(settings))
    return ApiServer(replica, _faults(settings))


def engine_config(settings: ServeSettings) -> EngineConfig:
    """The engine's configuration.

    Raises InvalidSettings if the KV cache cannot hold one request of `max_model_len` tokens, which would never run.
    """
    config = EngineConfig(
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        block_size=settings.block_size,
        num_gpu_blocks=settings.num_gpu_blocks_override or CARDS[settings.preset].kv_tokens // settings.block_size,
        enable_prefix_caching=settings.enable_prefix_caching,
        enable_chunked_prefill=settings.enable_chunked_prefill,
        enable_lora=settings.enable_lora,
        max_loras=settings.max_loras,
    )
    capacity = (config.num_gpu_blocks - 1) * config.block_size
    if config.max_model_len > capacity:
        raise InvalidSettings(
            f"max_model_len: found {config.max_model_len}; allowed are at most {capacity}, the capacity of "
            f"{config.num_gpu_blocks} blocks of {config.block_size} tokens (one block is never used)"
        )
    return config


def _kv_events(settings: ServeSettings, number: int) -> KvEvents | None:
    if settings.kv_events_config is None:
        return None
    try:
        return kv_events(settings.kv_events_config, number, settings.block_size, settings.metrics_profile)
    except InvalidKvEventsConfig as error:
        raise InvalidSettings(str(error)) from None


def _step_time(settings: ServeSettings) -> StepTime:
    if settings.step_floor_s is not None:
        return StepTime(settings.step_floor_s, 0.0, 0.0, 0.0)
    return CARDS[settings.preset].step_time


def _options(settings: ServeSettings) -> Options:
    return Options(
        root=settings.model,
        seed=settings.seed,
        api_keys=tuple(settings.api_key),
        max_queued_requests=settings.max_num_queued_reqs,
        prompt_tokens_details=settings.enable_prompt_tokens_details,
        request_id_headers=settings.enable_request_id_headers,
        server_load_tracking=settings.enable_server_load_tracking,
        # vLLM also requires VLLM_ALLOW_RUNTIME_LORA_UPDATING for security, which a mock does not need.
        runtime_lora=settings.enable_lora,
        auto_tool_choice=settings.enable_auto_tool_choice,
        answer_tokens=settings.answer_tokens,
        dev_mode=settings.dev_mode,
        older_chat_fields=settings.older_chat_fields,
    )


def _loras(settings: ServeSettings, adapters: Adapters) -> Loras:
    loras = Loras(settings.names, adapters, settings.max_lora_rank)
    if settings.lora_modules and not settings.enable_lora:
        raise InvalidSettings("lora_modules: needs --enable-lora")
    for module in settings.lora_modules:
        name, separator, path = module.partition("=")
        if not separator:
            raise InvalidSettings(f"lora_modules: found {module!r}; allowed is NAME=PATH")
        try:
            loras.load(LoadLoraBody(lora_name=name, lora_path=path))
        except ApiError as error:
            raise InvalidSettings(f"lora_modules: {error}") from None
    return loras


def _faults(settings: ServeSettings) -> Faults:
    return Faults(**{name: getattr(settings, name) for name in Faults.model_fields})
