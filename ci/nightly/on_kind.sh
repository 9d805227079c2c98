#!/usr/bin/env bash
# One nightly run on a kind cluster with mocks in place of GPUs. Log, reports and their history are copied to out/nightly.
# Needs docker, kind, kubectl and helm. KEEP=1 keeps the cluster for the next run.
# VLLM=1 first compares the ports with real vLLM servers on this machine's CPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cluster=inference-gateway-nightly
namespace=inference-gateway-nightly
node=${KIND_NODE_IMAGE:-kindest/node:v1.34.4}
out=out/nightly
images=(picker vllm-mock nightly)
folder=$(mktemp -d)
export KUBECONFIG=$folder/kubeconfig

log() { echo "$(date +%T) $*"; }
clean_up() {
  [[ ${KEEP:-} ]] || kind delete cluster --quiet --name "$cluster"
  rm -rf "$folder"
}
trap clean_up EXIT
touch "$folder/began"

seconds=${FUZZ_SECONDS:-300}
log "fuzzing the picker for $seconds s (make fuzz)"
make fuzz SECONDS="$seconds"

if [[ ${VLLM:-} ]]; then
  log "comparing the ports with real vLLM servers (make vllm)"
  make vllm ARGS=--quick
fi

log "building ${images[*]}"
# The image gets this machine's helm, so that the build needs no registry for it.
install -m 755 "$(readlink -f "$(command -v helm)")" "$folder/helm"
printf 'FROM scratch\nCOPY helm /usr/bin/helm\n' >"$folder/Dockerfile"
docker build --quiet -t inference-gateway/helm:local "$folder" >/dev/null
for image in "${images[@]}"; do
  docker build --quiet --network host -f ci/Dockerfile --target "$image" --build-arg PACKAGE="$image" \
    --build-arg HELM_IMAGE=inference-gateway/helm:local -t "inference-gateway/$image:0.1.0" . >/dev/null
done

if kind get clusters 2>/dev/null | grep -qx "$cluster"; then
  kind export kubeconfig --quiet --name "$cluster"
else
  log "creating the kind cluster $cluster"
  kind create cluster --quiet --name "$cluster" --image "$node" --wait 60s
fi
for image in "${images[@]}"; do
  kind load docker-image --quiet --name "$cluster" "inference-gateway/$image:0.1.0"
done

kept=$cluster-control-plane:/kept
docker exec "$cluster-control-plane" mkdir -p /kept
[[ ! -d $out/history ]] || docker cp "$out/history" "$kept"
docker exec "$cluster-control-plane" chmod -R a+rwX /kept

kubectl apply -k ci/nightly/kind >/dev/null
job=nightly-$(date +%s)
kubectl create job -n "$namespace" --from=cronjob/nightly "$job" >/dev/null
log "running $job"
mkdir -p "$out"
# kubectl logs fails until the container is created.
for _ in $(seq 180); do
  kubectl logs -n "$namespace" "job/$job" >/dev/null 2>&1 && break
  sleep 1
done
kubectl logs -n "$namespace" -f "job/$job" | tee "$out/nightly.log"
docker cp "$kept/." "$out"
find "$out" -name '*.html' -newer "$folder/began" | sort | sed 's/^/  /'
# The Job's condition is set shortly after the end of the log.
for _ in $(seq 60); do
  ended=$(kubectl get -n "$namespace" "job/$job" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
  [[ $ended != *Complete* && $ended != *Failed* ]] || break
  sleep 1
done
[[ $ended == *Complete* ]] || {
  log "the nightly run failed"
  exit 1
}
log "the nightly run passed"
