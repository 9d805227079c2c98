{{- define "inference-gateway.labels" -}}
app.kubernetes.io/part-of: inference-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of pods. They do not change with the chart's version: an upgrade would restart every model server. */}}
{{- define "inference-gateway.podLabels" -}}
app.kubernetes.io/part-of: inference-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels that select a component's pods. Argument: (list . "component"). */}}
{{- define "inference-gateway.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}

{{/* An image by digest, or else by tag. The release's registry overrides the image's. Argument: (list . image). */}}
{{- define "inference-gateway.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- $name := ternary (printf "%s/%s" $registry $image.repository) $image.repository (ne $registry "") -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "inference-gateway.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ .name }}
{{- end }}
{{- end }}
{{- end }}

{{/* Security context of the project's own pods: unprivileged, as the restricted Pod Security Standard requires. */}}
{{- define "inference-gateway.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "inference-gateway.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Scheduling constraints of pods. Argument: a component's values. */}}
{{- define "inference-gateway.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Settings as environment variables. Argument: (list "PICKER_" map), a prefix and a map of snake_case names. */}}
{{- define "inference-gateway.settings" -}}
{{- $prefix := index . 0 -}}
{{- range $name, $value := index . 1 }}
{{- /* Helm parses whole numbers as floats, and would write 16777216 as 1.6777216e+07. */}}
{{- $is_whole := and (kindIs "float64" $value) (eq ($value | int64 | float64) $value) }}
- name: {{ printf "%s%s" $prefix (upper $name) }}
  value: {{ if kindIs "slice" $value }}{{ toJson $value | quote }}{{ else }}{{ ternary ($value | int64) $value $is_whole | toString | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* Peers of a NetworkPolicy: Envoy Gateway's proxies, in the namespaces where it deploys them. A label alone would admit
any pod that carries it. */}}
{{- define "inference-gateway.proxies" -}}
{{- range uniq (prepend .Values.extension.proxyNamespaces (.Values.extension.envoyGatewayNamespace | default .Release.Namespace)) }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . }}
  podSelector:
    matchLabels:
      app.kubernetes.io/managed-by: envoy-gateway
{{- end }}
{{- end }}

{{/* Whether all paths are open. Routes, policy and benchmark pod are then the tutorial's, letter for letter. */}}
{{- define "inference-gateway.isTutorial" -}}
{{- if eq (toJson .Values.gateway.paths) (toJson (list "/")) }}true{{ end }}
{{- end }}

{{/* Annotations with a pool's settings. Argument: the pool's values. */}}
{{- define "inference-gateway.poolAnnotations" -}}
{{- $settings := deepCopy .settings -}}
{{- with .routingStrategy }}{{ $_ := set $settings "routing-strategy" . }}{{ end -}}
{{- range $name, $value := $settings }}
{{- /* Helm parses whole numbers as floats, and would write 16777216 as 1.6777216e+07. */}}
inference.networking.x-k8s.io/{{ $name }}: {{ ternary ($value | int64) $value (kindIs "float64" $value) | toString | quote }}
{{- end }}
{{- end }}

{{/* The pod's own address, used by metricsAddress. */}}
{{- define "inference-gateway.podIp" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}

{{/* Metrics and health are served on the pod's address. The other admin pages are served on the same port of loopback, which
`kubectl port-forward` reaches. */}}
{{- define "inference-gateway.metricsAddress" -}}
metrics_address: "$(POD_IP):9090"
{{- end }}
