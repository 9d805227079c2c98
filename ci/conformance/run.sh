#!/usr/bin/env bash
# Runs the inference extension's conformance suite for gateways on a kind cluster of its own, and writes the report and
# its README, as upstream asks for them, to out/conformance. Needs docker, kind, kubectl, helm, and Go 1.26.
# TEST=NAME runs one test. KEEP=1 keeps the cluster. LWEPP=unmodified uses upstream's picker without lwepp.patch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
cd "$here"

cluster=inference-gateway-conformance
node=$cluster-control-plane
image=inference-gateway/picker:0.1.0
namespace=envoy-gateway-system
out=$root/out/conformance
work=$(mktemp -d)
export KUBECONFIG=$work/kubeconfig CGO_ENABLED=0

extension=sigs.k8s.io/gateway-api-inference-extension
suite=$extension/conformance
suite_version=$(go list -m -f '{{.Version}}' "$suite")
version=$(git describe --tags --always --dirty)

log() { echo "$(date +%T) $*"; }
clean_up() {
  [[ ${KEEP:-} ]] || kind delete cluster --quiet --name "$cluster"
  rm -rf "$work"
}
trap clean_up EXIT

log "building the suite $suite_version, its echo server and its picker"
mkdir -p "$work/bin" "$out"
go test -c -o "$work/bin/conformance" "$suite"
go build -o "$work/bin/echo-basic" sigs.k8s.io/gateway-api/conformance/echo-basic
cp -r "$(go mod download -json "$extension@$suite_version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" "$work/extension"
chmod -R u+w "$work/extension"
# Upstream's picker of this version does not work with Envoy: docs/operations.md, "Use another picker".
[[ ${LWEPP:-} == unmodified ]] || patch --quiet --strip 1 --directory "$work/extension" <lwepp.patch
(cd "$work/extension" && GOWORK=off go build -o "$work/bin/lwepp" ./cmd/lwepp)

image_of() { # BINARY: builds an image of it, under the name that the suite's manifests have
  local name
  name=$(sed -n "s|.*image: \(.*/$1:.*\)|\1|p" "$(go list -m -f '{{.Dir}}' "$suite")/resources/base.yaml" | head -1)
  printf 'FROM scratch\nCOPY %s /%s\nUSER 65532:65532\nENTRYPOINT ["/%s"]\n' "$1" "$1" "$1" >"$work/bin/Dockerfile"
  docker build --quiet -t "$name" "$work/bin" >/dev/null
  echo "$name"
}
log "building images"
images=("$image" "$(image_of echo-basic)" "$(image_of lwepp)")
docker build --quiet --network host -f "$root/ci/Dockerfile" --target picker --build-arg PACKAGE=picker \
  -t "$image" "$root" >/dev/null

log "creating the kind cluster $cluster"
kind delete cluster --quiet --name "$cluster"
kind create cluster --quiet --name "$cluster" --image "${KIND_NODE_IMAGE:-kindest/node:v1.34.4}" --wait 60s
kind load docker-image --quiet --name "$cluster" "${images[@]}"

log "installing the release"
helm install inference-gateway "$root/charts/inference-gateway" --namespace "$namespace" --create-namespace \
  --values values.yaml --wait --timeout 5m >/dev/null
kubectl apply -f gateway-class.yaml -f gateways-namespace.yaml >/dev/null

log "running the suite"
docker cp "$work/bin/conformance" "$node:/conformance"
report=$version-default-gateway-report.yaml
docker exec -e KUBECONFIG=/etc/kubernetes/admin.conf "$node" /conformance -test.v -test.timeout 60m \
  -gateway-class=conformance -report-output=/report.yaml ${TEST:+-run-test="$TEST"} \
  -organization="${ORGANIZATION:-inference-gateway}" -project=inference-gateway -version="$version" \
  -url="${URL:-https://example.com/inference-gateway}" -contact="${CONTACT:-https://example.com/inference-gateway/issues}" \
  | tee "$out/suite.log" | grep --line-buffered -E '^ *--- |^(PASS|FAIL|ok)' || failed=1
docker cp "$node:/report.yaml" "$out/$report"
sed -e "s|SUITE_VERSION|$suite_version|g; s|REPORT|$report|g; s|VERSION|$version|g" report-readme.template >"$out/README.md"
cat "$out/$report"
log "out/conformance/$report"
[[ ! ${failed:-} ]] && grep -q 'result: success' "$out/$report"
