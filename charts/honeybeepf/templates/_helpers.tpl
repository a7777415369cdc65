{{- define "honeybeepf.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "honeybeepf.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "honeybeepf.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "honeybeepf.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "honeybeepf.selectorLabels" -}}
app.kubernetes.io/name: {{ include "honeybeepf.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "honeybeepf.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "honeybeepf.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "honeybeepf.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "honeybeepf.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "honeybeepf.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* Percent-encoded, as OpenTelemetry wants values; $( would be the kubelet's. */}}
{{- define "honeybeepf.resourceAttributes" -}}
{{- $of := list "k8s.node.name=$(NODE_NAME)" "host.name=$(NODE_NAME)" "service.instance.id=$(NODE_NAME)" }}
{{- range $name, $value := .Values.otlp.resourceAttributes }}
{{- $of = append $of (printf "%s=%s" $name ($value | urlquery | replace "+" "%20")) }}
{{- end }}
{{- join "," $of }}
{{- end }}

{{/* A duration such as 60s in milliseconds, as OpenTelemetry's variables want it. */}}
{{- define "honeybeepf.milliseconds" -}}
{{- if hasSuffix "ms" . }}{{ trimSuffix "ms" . }}
{{- else if hasSuffix "s" . }}{{ mul (trimSuffix "s" . | int) 1000 }}
{{- else if hasSuffix "m" . }}{{ mul (trimSuffix "m" . | int) 60000 }}
{{- else }}{{ fail (printf "%s is no duration, such as 60s" .) }}
{{- end }}
{{- end }}
