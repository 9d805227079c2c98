"""Valid manifests, for tests that change them."""

from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "e2e" / "manifests" / "tutorial"

POOL = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata:
  name: vllm-qwen-pool
spec:
  targetPortNumber: 8000
  selector:
    app: qwen
  extensionRef:
    name: inference-gateway-ext-proc
"""

POOL_V1 = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: vllm-qwen-pool
spec:
  targetPorts:
  - number: 8000
  selector:
    matchLabels:
      app: qwen
  endpointPickerRef:
    name: inference-gateway-ext-proc
    port:
      number: 9002
"""

MODEL = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata:
  name: inferencemodel-qwen
spec:
  modelName: /model/qwen
  criticality: Critical
  poolRef:
    name: vllm-qwen-pool
  targetModels:
  - name: /model/qwen
    weight: 100
"""

ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: qwen-backend
spec:
  parentRefs:
  - name: qwen-inference-gateway
  rules:
  - backendRefs:
    - name: qwen
      port: 8000
    timeouts:
      request: 10s
"""

OBJECTIVE = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata:
  name: batch
spec:
  priority: -10
  poolRef:
    name: vllm-qwen-pool
"""

REWRITE = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata:
  name: canary
spec:
  poolRef:
    name: vllm-qwen-pool
  rules:
  - matches:
    - model:
        type: Exact
        value: qwen
    targets:
    - modelRewrite: qwen-v1
      weight: 90
    - modelRewrite: qwen-v2
      weight: 10
"""

LOCAL_POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: qwen, namespace: default}
spec:
  selector: {matchLabels: {app: qwen}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: picker, port: {number: 9002}}
"""

LOCAL_ENDPOINTS = """\
endpoints:
- {name: qwen-1, address: 127.0.0.1, port: 1, labels: {app: qwen}}
- {name: qwen-2, address: 127.0.0.1, port: 2, labels: {app: qwen}}
"""
"""The file of `--endpoints`: two servers of LOCAL_POOL where nothing listens."""
