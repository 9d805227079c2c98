"""Writes type stubs for the Envoy messages that the picker uses into `typings/`, for pyright.

`xds-protos` ships Python messages without stubs and without their .proto files. The compiled modules contain their
descriptors, which are sufficient for mypy-protobuf's protoc plug-in.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor import FileDescriptor

ROOT = Path(__file__).parent.parent
OUT = ROOT / "typings"
# types-protobuf has the stubs of google.protobuf itself.
PROVIDED = "google/protobuf/"


def imported_modules() -> set[str]:
    """The `..._pb2` modules that the sources import."""
    pattern = re.compile(r"^\s*(?:from ([\w.]+) import ([\w, ]*_pb2\b[\w, ]*)|from ([\w.]+_pb2) import)", re.MULTILINE)
    modules: set[str] = set()
    for source in [*ROOT.glob("picker/**/*.py"), *ROOT.glob("e2e/**/*.py")]:
        for package, names, whole in pattern.findall(source.read_text()):
            if whole:
                modules.add(whole)
            modules.update(f"{package}.{word.split(' as ')[0].strip()}" for word in names.split(",") if "_pb2" in word)
    return {name for name in modules if name.startswith(("envoy.", "xds.")) and not name.endswith("_grpc")}


def with_dependencies(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    """Yields the imports of `file` and then `file`, each once. protoc uses this order."""
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        yield from with_dependencies(dependency, seen)
    yield file


def main() -> None:
    modules = imported_modules()
    request = plugin_pb2.CodeGeneratorRequest(parameter="readable_stubs")
    seen: set[str] = set()
    for name in sorted(modules):
        import_module(name)
        file = descriptor_pool.Default().FindFileByName(name.replace(".", "/").removesuffix("_pb2") + ".proto")
        for dependency in with_dependencies(file, seen):
            dependency.CopyToProto(request.proto_file.add())
    request.file_to_generate.extend(f.name for f in request.proto_file if not f.name.startswith(PROVIDED))
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    done = subprocess.run([plugin], input=request.SerializeToString(), capture_output=True, check=True)
    answer = plugin_pb2.CodeGeneratorResponse.FromString(done.stdout)
    for stub in answer.file:
        path = OUT / stub.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stub.content)


if __name__ == "__main__":
    main()
