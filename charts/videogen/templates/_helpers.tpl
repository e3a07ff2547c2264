{{- define "videogen.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters, so that every suffix below still makes a legal name; no dots, which a Service's may not have. */}}
{{- define "videogen.fullname" -}}
{{- $name := include "videogen.name" . }}
{{- $full := .Values.fullnameOverride }}
{{- if not $full }}
{{- $full = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- end }}
{{- $full | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "videogen.selectorLabels" -}}
app.kubernetes.io/name: {{ include "videogen.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "videogen.labels" -}}
{{ include "videogen.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "videogen.serviceAccountName" -}}
{{- default (include "videogen.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "videogen.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end }}
{{- end }}

{{/* The namespaces in which workload pods are known to run, as a JSON list. */}}
{{- define "videogen.workloadNamespaces" -}}
{{- $named := .Values.namespaces | default .Values.networkPolicy.workload.namespaces }}
{{- $named | default (list .Release.Namespace) | uniq | sortAlpha | toJson }}
{{- end }}

{{/* The store that resources take where they name none, as JSON: the embedded one, or the administrator's. */}}
{{- define "videogen.storage" -}}
{{- if .Values.embeddedStore.enabled }}
{{- if .Values.defaults.storage }}
{{- fail "defaults.storage and embeddedStore.enabled exclude each other: remove defaults.storage, or set embeddedStore.enabled to false" }}
{{- end }}
{{- $store := include "videogen.storeName" . }}
{{- dict
  "url" (printf "s3://%s/" .Values.embeddedStore.bucket)
  "endpoint" (printf "http://%s.%s.svc:7070" $store .Release.Namespace)
  "region" .Values.embeddedStore.region
  "credentialsSecret" $store
  | toJson }}
{{- else }}
{{- .Values.defaults.storage | toJson }}
{{- end }}
{{- end }}

{{- define "videogen.storeName" -}}
{{ include "videogen.fullname" . }}-store
{{- end }}

{{/* Ports at which stores may be reached, as a JSON list: those of every endpoint, 443, and the ones in the values. */}}
{{- define "videogen.storePorts" -}}
{{- $ports := list 443 }}
{{- $storage := include "videogen.storage" . | fromJson }}
{{- range prepend .Values.allowed.endpoints (default "" $storage.endpoint) | compact }}
{{- $url := urlParse . }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
{{- $ports = append $ports ($port | default (ternary 80 443 (eq $url.scheme "http")) | int) }}
{{- end }}
{{- range .Values.networkPolicy.workload.store.ports }}
{{- $ports = append $ports (int .) }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{/* Peers of a NetworkPolicy rule for a list of CIDRs. */}}
{{- define "videogen.peers" -}}
{{- range . }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "videogen.dnsEgress" -}}
- to:
  - namespaceSelector: {}
  - ipBlock: {cidr: 169.254.0.0/16}  # node-local DNS caches
  ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
{{- end }}

{{- define "videogen.podSecurityContext" -}}
runAsNonRoot: true
{{- with . }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "videogen.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
