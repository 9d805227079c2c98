"""The `picker` command. Each command's own modules are imported when it runs: none pays for the others."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import uvloop

from picker.cli_error import CliError
from picker.printable import printable
from picker.resources.problems import InvalidManifests
from picker.resources.validate import validate_files
from picker.settings import GatewaySettings, InvalidSettings, ServeSettings, StandaloneSettings

_USAGE = """picker COMMAND [flags]

  serve       answer Envoy's questions: which endpoint shall serve this request?
  standalone  the whole gateway on this machine: Envoy, configured from your manifests, and the picker
  gateway     what Envoy Gateway asks to serve InferencePools on Kubernetes
  validate    read manifests and say what is wrong with them
  teardown    remove a Gateway, and wait until Envoy Gateway has taken its proxy away
  top         watch a running picker: pools, endpoints and their load
  explain     why a request went where it went{added}

`picker COMMAND --help` tells the flags. Each is also an environment variable (PICKER_LOG_LEVEL) and a line of the YAML
file that --config names (log_level: debug)."""

COMMANDS_GROUP = "picker.commands"
"""Entry points that add commands: NAME = module:function, the function being a Command."""

Command = Callable[[list[str]], int]
"""Takes the arguments after its name, and returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument. Exits 2 on wrong usage, 1 when the command failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
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
    if not given or given[0] in ("-h", "--help"):
        print(_USAGE.format(added="".join(f"\n  {name:<11} (from {added[name].module})" for name in sorted(added))))
        sys.exit(0 if given else 2)
    name = given[0]
    if name not in own and name not in added:
        allowed = ", ".join([*own, *sorted(added)])
        print(f"picker: no command {name!r}; allowed are {allowed}", file=sys.stderr)
        sys.exit(2)
    command: Command = own[name] if name in own else added[name].load()
    try:
        sys.exit(command(given[1:]))
    except InvalidSettings as error:
        _complain(name, error)
        sys.exit(2)
    except (InvalidManifests, CliError) as error:
        _complain(name, error)
        sys.exit(1)


def _complain(command: str, error: Exception) -> None:
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
    parser = argparse.ArgumentParser("picker validate", description="Read manifests and say what is wrong with them.")
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
        "picker teardown", description="Remove a Gateway and wait until its proxy is gone."
    )
    parser.add_argument("--gateway", required=True, metavar="NAMESPACE/NAME")
    parser.add_argument("--gateway-class", required=True, metavar="NAME", help="what the Gateway is of")
    parser.add_argument(
        "--proxy-namespace", action="append", required=True, help="where proxies may be; again for more"
    )
    parser.add_argument("--timeout-s", type=float, default=120.0, help="how long to wait (default: 120)")
    given = parser.parse_args(arguments)
    try:
        gateway = ObjectName.parse(given.gateway)
    except ValueError as error:
        parser.error(f"argument --gateway: {error}")
    configure_logging("info", "text")

    async def remove() -> int:
        removal = Teardown(kubernetes_client(), gateway, given.gateway_class, given.proxy_namespace)
        await removal.run(given.timeout_s)
        return 0

    return _run(remove())
