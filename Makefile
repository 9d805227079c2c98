# Every target runs from a bare machine with Python >= 3.11 and make: uv comes into .venv by pip when it is not on the PATH.
PYTHON ?= python3
UV := $(or $(shell command -v uv 2>/dev/null),.venv/bin/uv)
VERSION = $(shell sed -n 's/^appVersion: //p' charts/inference-gateway/Chart.yaml)
# make images PYTHON_IMAGE=python@sha256:...: the base by digest, as releases are built.
PYTHON_BASE = $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE))
RUN := $(UV) run --frozen --no-sync

.PHONY: help install demo up test e2e build-requirements sbom audit images nightly nightly-access fuzz lint lint-files set-version format bench bench-mock bench-report crds chart-schema dashboards dashboard protos simulate clean

help: ## what you can type
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet uv

# A stamp, so that a second `make demo` starts at once.
.venv/installed: uv.lock pyproject.toml */pyproject.toml */*/pyproject.toml | $(filter .venv/bin/uv,$(UV))
	@echo "Installing into .venv ..."
	@$(UV) sync --quiet --frozen --inexact --all-packages
	@# xds-protos brings older copies of files of opentelemetry-proto: the latter has to come last.
	@$(UV) sync --quiet --frozen --inexact --all-packages --reinstall-package opentelemetry-proto
	@touch $@

install: .venv/installed ## everything into .venv

demo: install ## both ports under the same load: a table and a picture in out/demo
	@$(RUN) gateway-demo run $(ARGS)

up: install ## the same gateway left running, for you to curl
	@$(RUN) gateway-demo up $(ARGS)

test: install ## every test that needs no cluster, a real Envoy included
	@$(RUN) pytest -n 2 --dist loadfile -m 'not bench' $(ARGS)

e2e: install ## the chart on a kind cluster, for as long as the tests take; needs docker, kind, kubectl and helm
	@test -f charts/inference-gateway/charts/gateway-helm-v1.9.1.tgz || helm dependency build charts/inference-gateway
	@$(RUN) pytest e2e/cluster -v --tb=short $(ARGS)

build-requirements: install ## pin what images are built with, with hashes, from ci/build-requirements.in
	@$(UV) pip compile --quiet --generate-hashes --universal --no-header --python-version 3.11 ci/build-requirements.in -o ci/build-requirements.txt

sbom: install ## the packages of each image, CycloneDX with hashes, in out/sbom
	@mkdir -p out/sbom
	@for package in picker vllm-mock benchmark nightly; do \
	  extras=; [ $$package != picker ] || extras="--extra kv-events --extra traces"; \
	  $(UV) export --quiet --frozen --format cyclonedx1.5 --package $$package $$extras --no-dev --no-emit-workspace --output-file out/sbom/$$package.cdx.json >/dev/null || exit 1; \
	done
	@ls out/sbom

audit: install ## known holes of the locked packages, by the Python advisory database; needs the network
	@$(UV) export --quiet --frozen --all-packages --no-emit-workspace --output-file out/audit-requirements.txt >/dev/null
	@$(UV) tool run --from pip-audit==2.9.0 pip-audit --disable-pip --require-hashes -r out/audit-requirements.txt

images: ## the images that the chart names: picker and vllm-mock; needs docker
	@for package in picker vllm-mock; do \
	  docker build $(PYTHON_BASE) -f ci/Dockerfile --target $$package --build-arg PACKAGE=$$package -t inference-gateway/$$package:$(VERSION) . || exit 1; \
	done

fuzz: install ## random use of the picker, SECONDS=60; SEED and TARGET repeat what a failure prints
	@PYTHONPATH=picker/tests $(RUN) python -m fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(if $(TARGET),--target $(TARGET))

lint: install lint-files ## ruff, pyright, import-linter, and the project's own files
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) lint-imports --no-logo
	@$(RUN) python ci/envoy_stubs.py
	@$(RUN) pyright

lint-files: install ## one version everywhere, Markdown, words of the glossary, workflows by their schema
	@$(RUN) python ci/version.py
	@$(RUN) rumdl check --quiet $$(git ls-files '*.md')
	@$(RUN) codespell --builtin '' --dictionary ci/glossary/words.txt $$(cat ci/glossary/files.txt)
	@$(RUN) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RUN) check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@! command -v actionlint >/dev/null || actionlint

set-version: install ## write another version to every place: make set-version TO=0.2.0
	@$(RUN) python ci/version.py $(TO)
	@$(RUN) python ci/chart_schema.py

format: install ## let ruff and rumdl format and fix
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .
	@$(RUN) rumdl fmt --quiet $$(git ls-files '*.md')

nightly: ## the nightly job, once, on a kind cluster with mocks: reports in out/nightly; needs docker, kind, kubectl, helm
	@test -f charts/inference-gateway/charts/gateway-helm-v1.9.1.tgz || helm dependency build charts/inference-gateway
	@ci/nightly/on_kind.sh

bench-mock: install ## the vLLM mock's figures: virtual and real time, metrics, memory
	@$(RUN) python ci/bench_mock.py

bench: install ## the picker's figures through a real Envoy, as ratios in one run
	@$(RUN) gateway-bench $(ARGS)

bench-report: install ## what the picker is worth: A10 and L20 mocks, both ports, two loads; a report in out/bench-report
	@$(RUN) gateway-report $(ARGS)

crds: install ## write the chart's CRDs, after a change of the wire types
	@$(RUN) python -m picker.resources.crd charts/inference-gateway/charts/crds/crds

chart-schema: install ## generate the schema of the chart's values, and the README of the chart
	@$(RUN) python ci/chart_schema.py

nightly-access: install ## write the nightly job's ClusterRole, after a change of the chart
	@$(RUN) python ci/nightly_access.py

dashboards: install ## write dashboards, alerts and recording rules into the chart
	@$(RUN) gateway-dashboards generate

dashboard: install ## draw the dashboards from a Prometheus, as PNG and HTML in out/dashboard
	@$(RUN) gateway-dashboards draw $(ARGS)

protos: install ## generate the messages of our own .proto files
	@cd picker/src && PATH=$(abspath .venv/bin):$$PATH python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. picker/xds/extension_service.proto

simulate: install ## the strategies against their peers in virtual time: tables, plots and JSON in out/simulate
	@$(RUN) picker simulate ci/simulator/scenarios --seeds 20 --json out/simulate/results.json --markdown out/simulate/tables.md --plots out/simulate $(ARGS)

clean: ## remove what these commands made
	@rm -rf .venv out
