#!/usr/bin/env bash
# One night on a kind cluster with mocks in place of GPUs; log, reports and their history come to out/nightly. Needs
# docker, kind, kubectl and helm. KEEP=1 leaves the cluster, and the next run uses it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cluster=inference-gateway-nightly
namespace=inference-gateway-nightly
node=${KIND_NODE_IMAGE:-kindest/node:v1.34.4}
out=out/nightly
images=(picker vllm-mock nightly)
folder=$(mktemp -d)
export KUBECONFIG=$folder/kubeconfig

say() { echo "$(date +%T) $*"; }
leave() {
  [[ ${KEEP:-} ]] || kind delete cluster --quiet --name "$cluster"
  rm -rf "$folder"
}
trap leave EXIT
touch "$folder/began"

seconds=${FUZZ_SECONDS:-300}
say "using the picker at random for $seconds s (make fuzz)"
make fuzz SECONDS="$seconds"

say "building ${images[*]}"
# The job's helm is this machine's, so that the build needs no registry of helm's.
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
  say "making the kind cluster $cluster"
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
job=night-$(date +%s)
kubectl create job -n "$namespace" --from=cronjob/nightly "$job" >/dev/null
say "running $job"
mkdir -p "$out"
# Of a container that is being made there is no log to wait for.
for _ in $(seq 180); do
  kubectl logs -n "$namespace" "job/$job" >/dev/null 2>&1 && break
  sleep 1
done
kubectl logs -n "$namespace" -f "job/$job" | tee "$out/night.log"
docker cp "$kept/." "$out"
find "$out" -name '*.html' -newer "$folder/began" | sort | sed 's/^/  /'
# The log has ended, and soon the Job says how.
for _ in $(seq 60); do
  ended=$(kubectl get -n "$namespace" "job/$job" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
  [[ $ended != *Complete* && $ended != *Failed* ]] || break
  sleep 1
done
[[ $ended == *Complete* ]] || {
  say "the night was not good"
  exit 1
}
say "a good night"
