{{- /* Changes an object of the base in place. */ -}}
{{- define "outrider.change" }}
{{- $object := .object }}
{{- $values := .values }}
{{- $labels := merge (dict "app.kubernetes.io/part-of" "outrider") ($object.metadata.labels | default dict) }}
{{- $_ := set $object.metadata "labels" $labels }}
{{- if eq $object.kind "CustomResourceDefinition" }}
{{- /* Without its kinds, a mesh's objects would go, too. */ -}}
{{- $_ := set $object.metadata "annotations" (dict "helm.sh/resource-policy" "keep") }}
{{- end }}
{{- if and (hasSuffix "WebhookConfiguration" $object.kind) (eq $values.failurePolicy "Ignore") }}
{{- range $webhook := $object.webhooks }}
{{- $_ := set $webhook "failurePolicy" "Ignore" }}
{{- end }}
{{- end }}
{{- if eq $object.kind "Deployment" }}
{{- $_ := set $object.spec "replicas" $values.replicas }}
{{- $container := index $object.spec.template.spec.containers 0 }}
{{- $_ := set $container "image" $values.image }}
{{- $_ := set $container "resources" $values.resources }}
{{- with $values.imagePullPolicy }}
{{- $_ := set $container "imagePullPolicy" . }}
{{- end }}
{{- $arguments := list }}
{{- range $container.args }}
{{- if hasPrefix "--sidecar-image=" . }}
{{- $arguments = append $arguments (printf "--sidecar-image=%s" $values.sidecarImage) }}
{{- else }}
{{- $arguments = append $arguments . }}
{{- end }}
{{- end }}
{{- if ne $values.trustDomain "cluster.local" }}
{{- $arguments = append $arguments (printf "--trust-domain=%s" $values.trustDomain) }}
{{- end }}
{{- if ne .namespace "outrider-system" }}
{{- $arguments = append $arguments (printf "--root-namespace=%s" .namespace) }}
{{- $arguments = append $arguments (printf "--sidecar-control=outrider-control.%s.svc:15012" .namespace) }}
{{- end }}
{{- $_ := set $container "args" (concat $arguments $values.arguments) }}
{{- end }}
{{- end }}
