{{/* Names of all objects. Names of the workload are the tutorial's. */}}

{{- define "names.extension" -}}inference-gateway-extension{{- end }}
{{- define "names.endpointDiscovery" -}}inference-gateway-endpoints{{- end }}
{{- define "names.picker" -}}inference-gateway-ext-proc{{- end }}
{{/* Names of cluster-scoped objects. They include the release's namespace: another namespace may have a release of this name. */}}
{{- define "names.ofCluster" -}}{{ printf "%s-%s-%s" (index . 0).Release.Name (index . 1) (index . 0).Release.Namespace | trunc 253 | trimSuffix "-" }}{{- end }}
{{- define "names.pickerClusterRole" -}}{{ include "names.ofCluster" (list . "picker") }}{{- end }}
{{- define "names.extensionClusterRole" -}}{{ include "names.ofCluster" (list . "extension") }}{{- end }}
{{- define "names.envoyGatewayClusterRole" -}}{{ include "names.ofCluster" (list . "envoy-gateway-pools") }}{{- end }}
{{- define "names.uninstallClusterRole" -}}{{ include "names.ofCluster" (list . "uninstall") }}{{- end }}
{{- define "names.gatewayClass" -}}{{ .Values.gateway.className }}{{- end }}
{{- define "names.gateway" -}}{{ .Values.gateway.name }}{{- end }}
{{- define "names.poolRoute" -}}qwen-backend{{- end }}
{{- define "names.serviceRoute" -}}qwen-backend-no-inference{{- end }}
{{- define "names.timeoutPolicy" -}}backend-timeout{{- end }}
{{- define "names.envoyProxy" -}}{{ .Values.gateway.name }}-proxy{{- end }}
{{- define "names.pool" -}}{{ .Values.pool.name }}{{- end }}
{{- define "names.vllm" -}}qwen{{- end }}
{{/* The name of all objects of an entry of `models`: a DNS label that begins with a letter, as a Service's has to.
Argument: (list . key). */}}
{{- define "names.model" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s-%s" $root.Release.Name (index . 1) | replace "." "-" -}}
{{- $name = ternary (printf "m%s" $name) $name (regexMatch "^[0-9]" $name) -}}
{{- $name = ternary $name (printf "%s-%s" ($name | trunc 54 | trimSuffix "-") ($name | sha256sum | trunc 8)) (le (len $name) 63) -}}
{{- $others := list (include "names.picker" $root) (include "names.extension" $root) (include "names.endpointDiscovery" $root) (include "names.benchmark" $root) (include "names.gateway" $root) "envoy-gateway" -}}
{{- if has $name $others -}}
{{- fail (printf "models.%s: %s is the name of another object of the release. Choose another key" (index . 1) $name) -}}
{{- end -}}
{{- $name -}}
{{- end }}
{{- define "names.benchmark" -}}vllm-benchmark{{- end }}
{{- define "names.dashboard" -}}{{ printf "%s-dashboard-%s" (index . 0).Release.Name (index . 1) }}{{- end }}
{{- define "names.rules" -}}{{ printf "%s-rules" .Release.Name | trunc 63 | trimSuffix "-" }}{{- end }}
{{/* The name that Envoy Gateway gives to all objects of the Gateway's proxy. */}}
{{- define "names.proxy" -}}
{{- $gateway := printf "%s/%s" (include "names.workloadNamespace" .) (include "names.gateway" .) -}}
envoy-{{ $gateway | replace "/" "-" | trunc 48 | trimSuffix "-" }}-{{ $gateway | sha256sum | trunc 8 }}
{{- end }}
{{- define "names.uninstall" -}}{{ printf "%s-uninstall" .Release.Name | trunc 63 | trimSuffix "-" }}{{- end }}
{{- define "names.test" -}}{{ printf "%s-test" .Release.Name | trunc 63 | trimSuffix "-" }}{{- end }}

{{/* The namespace of the workload: pools, picker, model servers, Gateway and routes. */}}
{{- define "names.workloadNamespace" -}}{{ .Values.workload.namespace | default .Release.Namespace }}{{- end }}
