{{/* A preset: node selection, resources and flags of its pods. The values of `vllm` override it. Argument: these values. */}}
{{- define "inference-gateway.vllmPreset" -}}
{{- if eq .preset "a10" }}
nodeSelector:
  aliyun.accelerator/nvidia_name: NVIDIA-A10
tolerations:
- {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
podLabels: {}
resources:
  requests: {cpu: "4", memory: 24Gi, nvidia.com/gpu: "1"}
  limits: {nvidia.com/gpu: "1"}
arguments: [--gpu-memory-utilization=0.95, --max-model-len=8192]
{{- else if eq .preset "l20" }}
nodeSelector: {}
tolerations:
- {key: virtual-kubelet.io/provider, operator: Exists, effect: NoSchedule}
podLabels:
  alibabacloud.com/acs: "true"
  alibabacloud.com/compute-class: gpu
  alibabacloud.com/compute-qos: default
  alibabacloud.com/gpu-model-series: {{ .gpuModelSeries }}
# ACS grants exactly the requests: requests and limits have to be equal.
resources:
  requests: {cpu: "8", memory: 32Gi, nvidia.com/gpu: "1"}
  limits: {cpu: "8", memory: 32Gi, nvidia.com/gpu: "1"}
arguments: [--gpu-memory-utilization=0.95, --max-model-len=16384]
{{- else }}
nodeSelector: {}
tolerations: []
podLabels: {}
resources:
  requests: {cpu: 50m, memory: 128Mi}
arguments: []
{{- end }}
{{- end }}
