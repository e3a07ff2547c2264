{{/* operator.yaml: what is left empty in the values is left out, so that the operator's own defaults hold. */}}
{{- define "videogen.config" -}}
images:
  operator: {{ include "videogen.image" (dict "root" . "image" .Values.images.operator) }}
  runner: {{ include "videogen.image" (dict "root" . "image" .Values.images.runner) }}
  pullPolicy: {{ .Values.images.pullPolicy }}
{{- with .Values.namespaces }}
namespaces: {{ uniq . | sortAlpha | toJson }}
{{- end }}
{{- $defaults := dict }}
{{- with include "videogen.storage" . | fromJson }}
{{- $_ := set $defaults "storage" . }}
{{- end }}
{{- range $key := list "model" "encoder" "runners" }}
{{- with get $.Values.defaults $key }}
{{- $_ := set $defaults $key . }}
{{- end }}
{{- end }}
{{- with $defaults }}
defaults:
  {{- toYaml . | nindent 2 }}
{{- end }}
allowed:
  {{- toYaml .Values.allowed | nindent 2 }}
{{- end }}
