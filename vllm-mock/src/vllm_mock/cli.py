"""The `vllm-mock` command."""

import asyncio
import sys
from collections.abc import Callable, Sequence

import uvloop
from command_settings import InvalidSettings

from vllm_mock.api.running import PortTaken
from vllm_mock.settings import FitSettings, ServeSettings, VerifySettings
from vllm_mock.tokens.folder import InvalidTokenizer

_COLUMNS = 160
"""Width of tables that are written to a file or a log."""
_USAGE = """vllm-mock COMMAND [flags]

  serve    simulate a model server without a GPU: vLLM's HTTP API, metrics and timing
  fit      fit the coefficients of the speed model to a benchmark of a real server
  verify   replay recordings of a real vLLM against the mock and report differences

`vllm-mock COMMAND --help` lists the flags. Each flag is also an environment variable (VLLM_MOCK_TIME_SCALE) and a key
of the YAML file that --config names (time_scale: 10)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command named by the first argument. Exits 2 on wrong usage, 1 if the command failed."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {"serve": _serve, "fit": _fit, "verify": _verify}
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0 if args else 2)
    command = commands.get(args[0])
    if command is None:
        print(f"vllm-mock: no command {args[0]!r}; allowed are {', '.join(commands)}", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(command(args[1:]))
    except InvalidSettings as error:
        for line in str(error).splitlines():
            print(f"vllm-mock {args[0]}: {line}", file=sys.stderr)
        sys.exit(2)


def _serve(arguments: list[str]) -> int:
    from vllm_mock.serve import serve

    settings = ServeSettings.read(arguments, "vllm-mock serve")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (PortTaken, InvalidTokenizer) as error:
        print(f"vllm-mock serve: {error}", file=sys.stderr)
        return 1
    return 0


def _fit(arguments: list[str]) -> int:
    from rich.console import Console

    from vllm_mock.fit.measurements import InvalidMeasurements, read_measurements
    from vllm_mock.fit.report import report_anchors, report_fit

    settings = FitSettings.read(arguments, "vllm-mock fit")
    try:
        if settings.files:
            report_fit(read_measurements(settings.files), Console())
        else:
            report_anchors(Console())
    except InvalidMeasurements as error:
        print(f"vllm-mock fit: {error}", file=sys.stderr)
        return 1
    return 0


def _verify(arguments: list[str]) -> int:
    from rich.console import Console

    from vllm_mock.verify.report import PARTS, NothingToVerify, verify

    settings = VerifySettings.read(arguments, "vllm-mock verify")
    parts = settings.only or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        raise InvalidSettings(f"only: found {', '.join(unknown)}; allowed are {', '.join(PARTS)}")
    try:
        console = Console(width=None if sys.stdout.isatty() else _COLUMNS)
        return 1 if verify(settings.folder, parts, console, settings.real) else 0
    except NothingToVerify as error:
        print(f"vllm-mock verify: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    main()
