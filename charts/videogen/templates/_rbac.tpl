{{/* All that the operator may do in a namespace that it watches. No verb on secrets, none on nodes. */}}
{{- define "videogen.operatorRules" -}}
- apiGroups: [videogen.dev]
  resources: [videogenerations]
  verbs: [list, watch]
- apiGroups: [videogen.dev]
  resources: [videogenerations/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps]  # plans
  verbs: [create, get, list, delete]
- apiGroups: [""]
  resources: [services]  # one for each encoder group
  verbs: [create, get, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [events]  # why a Job has no pods is written nowhere else
  verbs: [list]
{{- end }}

{{- define "videogen.viewRules" -}}
- apiGroups: [videogen.dev]
  resources: [videogenerations, videogenerations/status]
  verbs: [get, list, watch]
{{- end }}

{{- define "videogen.editRules" -}}
- apiGroups: [videogen.dev]
  resources: [videogenerations]
  verbs: [create, get, list, watch, update, patch, delete, deletecollection]
- apiGroups: [videogen.dev]
  resources: [videogenerations/status]
  verbs: [get, list, watch]
{{- end }}
