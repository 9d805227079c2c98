"""The `vllm-mock` command."""

import asyncio
import sys
from collections.abc import Callable, Sequence

import uvloop

from vllm_mock.serve import serve
from vllm_mock.server.running import PortTaken
from vllm_mock.settings import InvalidSettings, ServeSettings
from vllm_mock.tokens.folder import InvalidTokenizer

_USAGE = """vllm-mock COMMAND [flags]

  serve    a model server without a GPU: vLLM's HTTP surface, metrics and timing

`vllm-mock COMMAND --help` tells the flags. Each is also an environment variable (VLLM_MOCK_TIME_SCALE) and a line of
the YAML file that --config names (time_scale: 10)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument. Exits 2 on wrong usage, 1 when the command failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {"serve": _serve}
    if not given or given[0] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0 if given else 2)
    command = commands.get(given[0])
    if command is None:
        print(f"vllm-mock: no command {given[0]!r}; allowed are {', '.join(commands)}", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(command(given[1:]))
    except InvalidSettings as error:
        for line in str(error).splitlines():
            print(f"vllm-mock {given[0]}: {line}", file=sys.stderr)
        sys.exit(2)


def _serve(arguments: list[str]) -> int:
    settings = ServeSettings.read(arguments, "vllm-mock serve")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (PortTaken, InvalidTokenizer) as error:
        print(f"vllm-mock serve: {error}", file=sys.stderr)
        return 1
    return 0
