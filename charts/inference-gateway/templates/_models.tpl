{{/* The models that the release serves, as a JSON list: one of `vllm` and `pool` with the tutorial's names, or those of
`models`. Each is a dict:
  name       of the Deployment, the Service, their budget and their monitor, and the value of the pods' label `app`
  server     values as in `vllm`
  pool       name, selector, routingStrategy, settings and failureMode of the InferencePool
  objects    the pool's InferenceModels, as in `pool.models`
  routes     HTTPRoutes: their names on both ports, path prefixes, and rules. A rule is the list of the names of models
             that it matches. The empty list matches every request. */}}
{{- define "inference-gateway.models" -}}
{{- if or .Values.models .Values.gateway.defaultModel -}}
{{- include "inference-gateway.namedModels" . -}}
{{- else -}}
{{- $pool := dict "name" (include "names.pool" .) "selector" .Values.pool.selector "routingStrategy" .Values.pool.routingStrategy "settings" .Values.pool.settings "failureMode" .Values.pool.failureMode -}}
{{- $route := dict "pool" (include "names.poolRoute" .) "service" (include "names.serviceRoute" .) "paths" .Values.gateway.paths "rules" (list list) -}}
{{- list (dict "name" (include "names.vllm" .) "server" .Values.vllm "pool" $pool "objects" .Values.pool.models "routes" (list $route)) | toJson -}}
{{- end -}}
{{- end }}

{{/* The enabled entries of `models`. Fails if two of them serve the same name: it would have two routes. */}}
{{- define "inference-gateway.namedModels" -}}
{{- $models := list -}}
{{- $owners := dict -}}
{{- range $key, $entry := .Values.models -}}
{{- if ne (get $entry "enabled" | toString) "false" -}}
{{- range $name := include "inference-gateway.servedNames" (list $key $entry) | fromJsonArray -}}
{{- with get $owners $name -}}
{{- fail (printf "models.%s and models.%s both serve %q: the name of a model or adapter is unique in the release" . $key $name) -}}
{{- end -}}
{{- $_ := set $owners $name $key -}}
{{- end -}}
{{- $models = append $models (include "inference-gateway.namedModel" (list $ $key $entry) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- with .Values.gateway.defaultModel -}}
{{- if not (has . (values $owners)) -}}
{{- fail (printf "gateway.defaultModel: %q is not an enabled entry of models" .) -}}
{{- end -}}
{{- end -}}
{{- toJson $models -}}
{{- end }}

{{/* A model of an entry of `models`. Argument: (list . key entry). */}}
{{- define "inference-gateway.namedModel" -}}
{{- $root := index . 0 -}}
{{- $key := index . 1 -}}
{{- $entry := index . 2 -}}
{{- $name := include "names.model" (list $root $key) -}}
{{- $names := include "inference-gateway.servedNames" (list $key $entry) | fromJsonArray -}}
{{- $server := mergeOverwrite (deepCopy $root.Values.vllm) (omit $entry "enabled" "adapters" "criticality" "routingStrategy" "settings" "failureMode") -}}
{{- $_ := set $server.model "servedName" (first $names) -}}
{{- with $entry.adapters -}}
{{- $_ := set $server "arguments" (concat (include "inference-gateway.adapterArguments" . | fromJsonArray) $server.arguments) -}}
{{- end -}}
{{- $pool := dict "name" $name "selector" (dict "app" $name) "routingStrategy" ($entry.routingStrategy | default $root.Values.pool.routingStrategy) "settings" (mergeOverwrite (deepCopy $root.Values.pool.settings) ($entry.settings | default dict)) "failureMode" ($entry.failureMode | default $root.Values.pool.failureMode) -}}
{{- $objects := list -}}
{{- range $model := prepend ($entry.adapters | default list) (dict "name" (first $names)) -}}
{{- with $model.criticality | default $entry.criticality -}}
{{- /* A modelName is immutable: an object of another model needs another name. */ -}}
{{- $objects = append $objects (dict "name" (printf "%s-%s" $name ($model.name | sha256sum | trunc 8)) "modelName" $model.name "criticality" .) -}}
{{- end -}}
{{- end -}}
{{- /* The gateway itself serves the list of all models. */ -}}
{{- $paths := without $root.Values.gateway.paths "/v1/models" -}}
{{- if not $paths -}}
{{- fail "gateway.paths: models need a path besides /v1/models" -}}
{{- end -}}
{{- $routes := list -}}
{{- /* The Gateway API limits a rule to 64 matches, and a route to 128. */ -}}
{{- range $index, $part := chunk (div 64 (len $paths) | int) $names -}}
{{- /* A key has no dot, so that no name is another model's. */ -}}
{{- $route := ternary $name (printf "%s.%d" $name (add1 $index)) (eq $index 0) -}}
{{- $rules := list $part -}}
{{- if and (eq $index 0) (eq $key $root.Values.gateway.defaultModel) -}}
{{- $rules = append $rules list -}}
{{- end -}}
{{- $routes = append $routes (dict "pool" $route "service" (printf "%s.no-inference" $route) "paths" $paths "rules" $rules) -}}
{{- end -}}
{{- dict "name" $name "server" $server "pool" $pool "objects" $objects "routes" $routes | toJson -}}
{{- end }}

{{/* Names of a model and of its adapters, as a JSON list. Argument: (list key entry). */}}
{{- define "inference-gateway.servedNames" -}}
{{- $entry := index . 1 -}}
{{- $names := list (dig "model" "servedName" (index . 0) $entry) -}}
{{- range $entry.adapters -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{/* Flags of a server for the adapters of a model, as a JSON list. Argument: these adapters. */}}
{{- define "inference-gateway.adapterArguments" -}}
{{- $loaded := list -}}
{{- range $adapter := . -}}
{{- with $adapter.path -}}
{{- $loaded = append $loaded (printf "%s=%s" $adapter.name .) -}}
{{- end -}}
{{- end -}}
{{- concat (list "--enable-lora") (ternary (prepend $loaded "--lora-modules") list (gt (len $loaded) 0)) | toJson -}}
{{- end }}

{{/* Matches of path prefixes, for requests that name one of the models. The gateway sets the header from the body.
Argument: (list paths names). No names: all requests. */}}
{{- define "inference-gateway.matches" -}}
{{- $names := index . 1 -}}
{{- range $path := index . 0 }}
{{- range $names }}
- path:
    type: PathPrefix
    value: {{ $path }}
  headers:
  - name: X-Gateway-Model-Name
    value: {{ . | quote }}
{{- else }}
- path:
    type: PathPrefix
    value: {{ $path }}
{{- end }}
{{- end }}
{{- end }}
