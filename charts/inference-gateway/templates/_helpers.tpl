{{- define "inference-gateway.labels" -}}
app.kubernetes.io/part-of: inference-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* On pods: nothing that a new version of the chart changes, or an upgrade would have every GPU load its model again. */}}
{{- define "inference-gateway.podLabels" -}}
app.kubernetes.io/part-of: inference-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels by which a component's pods are found; (list . "component"). */}}
{{- define "inference-gateway.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}

{{/* An image by digest, or by tag, from the registry of the whole release where one is set; (list . image). */}}
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

{{/* What our own pods may do: nothing but run. */}}
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

{{/* Where pods may run; the values of a component. */}}
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

{{/* Settings as environment variables: prefix and a map of snake_case names; (list "PICKER_" map). */}}
{{- define "inference-gateway.settings" -}}
{{- $prefix := index . 0 -}}
{{- range $name, $value := index . 1 }}
{{- /* Helm knows whole numbers as floats, and would write 16777216 as 1.6777216e+07. */}}
{{- $is_whole := and (kindIs "float64" $value) (eq ($value | int64 | float64) $value) }}
- name: {{ printf "%s%s" $prefix (upper $name) }}
  value: {{ if kindIs "slice" $value }}{{ toJson $value | quote }}{{ else }}{{ ternary ($value | int64) $value $is_whole | toString | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* Peers of a NetworkPolicy: the proxies that Envoy Gateway made. A label alone would let in whoever writes it on a pod; the
namespaces are those where Envoy Gateway makes proxies. */}}
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

{{/* Whether every path is open: then routes, policy and benchmark pod are the tutorial's, letter for letter. */}}
{{- define "inference-gateway.isTutorial" -}}
{{- if eq (toJson .Values.gateway.paths) (toJson (list "/")) }}true{{ end }}
{{- end }}

{{/* The pod's own address, for metricsAddress. */}}
{{- define "inference-gateway.podIp" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}

{{/* The cluster reads metrics and health at the pod's address. What else there is listens on the same port of loopback, where
`kubectl port-forward` leads. */}}
{{- define "inference-gateway.metricsAddress" -}}
metrics_address: "$(POD_IP):9090"
{{- end }}
