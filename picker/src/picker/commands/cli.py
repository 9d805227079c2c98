"""The `picker` command. The modules of a command are imported only when it runs."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import uvloop
from command_settings import InvalidSettings

from picker.cli_error import CliError
from picker.printable import printable
from picker.resources.problems import InvalidManifests
from picker.resources.validate import validate_files
from picker.settings import GatewaySettings, ServeSettings, StandaloneSettings

_USAGE = """picker COMMAND [flags]

  serve       run the endpoint picker: the ext_proc server that picks an endpoint for each request
  standalone  run the whole gateway on this machine: Envoy, configured from manifests, and the picker
  gateway     run the extension of Envoy Gateway: hooks, endpoints (EDS) and statuses of InferencePools
  validate    check manifests and report every problem
  teardown    delete a Gateway, and wait until Envoy Gateway has deleted its proxy
  top         show the pools, the endpoints and the load of a running picker
  explain     explain why a request was sent to its endpoint{added}

`picker COMMAND --help` lists the flags. Each flag of serve, standalone and gateway is also an environment variable
(PICKER_LOG_LEVEL) and a key of the YAML file in --config (log_level: debug)."""

COMMANDS_GROUP = "picker.commands"
"""Entry points of additional commands: NAME = module:function, where the function is a Command."""

Command = Callable[[list[str]], int]
"""A function that takes the arguments after the command's name, and returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in the first argument. Exits with 2 on wrong usage, with 1 if the command failed."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    own: Mapping[str, Command] = {
        "serve": _serve,
        "standalone": _standalone,
        "gateway": _gateway,
        "validate": _validate,
        "teardown": _teardown,
        "top": _top,
        "explain": _explain,
    }
    added = {entry.name: entry for entry in entry_points(group=COMMANDS_GROUP)}
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE.format(added="".join(f"\n  {name:<11} (from {added[name].module})" for name in sorted(added))))
        sys.exit(0 if argv else 2)
    name = argv[0]
    if name not in own and name not in added:
        allowed = ", ".join([*own, *sorted(added)])
        print(f"picker: unknown command {name!r}; allowed are {allowed}", file=sys.stderr)
        sys.exit(2)
    command: Command = own[name] if name in own else added[name].load()
    try:
        sys.exit(command(argv[1:]))
    except InvalidSettings as error:
        _print_error(name, error)
        sys.exit(2)
    except (InvalidManifests, CliError) as error:
        _print_error(name, error)
        sys.exit(1)


def _print_error(command: str, error: Exception) -> None:
    for line in str(error).splitlines():
        print(f"picker {command}: {printable(line)}", file=sys.stderr)


def _serve(arguments: list[str]) -> int:
    from picker.commands.serve import serve

    return _run(serve(ServeSettings.read(arguments, "picker serve")))


def _standalone(arguments: list[str]) -> int:
    from picker.commands.standalone.run import standalone

    return _run(standalone(StandaloneSettings.read(arguments, "picker standalone")))


def _gateway(arguments: list[str]) -> int:
    from picker.commands.gateway import serve_gateway

    return _run(serve_gateway(GatewaySettings.read(arguments, "picker gateway")))


def _top(arguments: list[str]) -> int:
    from picker.commands.top.cli import top

    return top(arguments)


def _explain(arguments: list[str]) -> int:
    from picker.commands.top.cli import explain

    return explain(arguments)


def _run(command: Coroutine[Any, Any, int]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(command)


def _validate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("picker validate", description="Check manifests and report every problem.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a YAML file, or a folder of them")
    report = validate_files(parser.parse_args(arguments).files)
    for line in report.lines():
        print(printable(line))
    return 1 if report.problems else 0


def _teardown(arguments: list[str]) -> int:
    from picker.controller.teardown import Teardown
    from picker.logs import configure_logging
    from picker.resources.names import ObjectName
    from picker.sources.informer import kubernetes_client

    parser = argparse.ArgumentParser(
        "picker teardown", description="Delete a Gateway, and wait until its proxy is deleted."
    )
    parser.add_argument("--gateway", required=True, metavar="NAMESPACE/NAME", help="the Gateway to delete")
    parser.add_argument("--gateway-class", required=True, metavar="NAME", help="name of the GatewayClass")
    parser.add_argument(
        "--proxy-namespace",
        action="append",
        required=True,
        metavar="NAMESPACE",
        help="namespace that may hold the proxy; may be repeated",
    )
    parser.add_argument(
        "--timeout-s", type=float, default=120.0, metavar="SECONDS", help="limit of the wait (default: 120)"
    )
    options = parser.parse_args(arguments)
    try:
        gateway = ObjectName.parse(options.gateway)
    except ValueError as error:
        parser.error(f"argument --gateway: {error}")
    configure_logging("info", "text")

    async def run_teardown() -> int:
        teardown = Teardown(kubernetes_client(), gateway, options.gateway_class, options.proxy_namespace)
        await teardown.run(options.timeout_s)
        return 0

    return _run(run_teardown())
