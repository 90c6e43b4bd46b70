{{- define "portcullis.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "portcullis.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains (include "portcullis.name" .) .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "portcullis.name" .) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "portcullis.selector" -}}
app.kubernetes.io/name: {{ include "portcullis.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "portcullis.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "portcullis.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "portcullis.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "portcullis.policies" -}}
{{- default (printf "%s-policies" (include "portcullis.fullname" .)) .Values.policies.existingConfigMap }}
{{- end }}

{{/* Whether the pods read the API server's keys. */}}
{{- define "portcullis.readsApiServer" -}}
{{- if and .Values.auth.kubernetes.enabled .Values.auth.kubernetes.readFromApiServer }}yes{{ end }}
{{- end }}

{{/* A TOML value. JSON's texts and lists of texts are TOML's, too; whole numbers must stay whole. */}}
{{- define "portcullis.toml.value" -}}
{{- if kindIs "float64" . }}{{ if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{/* Tables of an array: list NAME TABLES. */}}
{{- define "portcullis.toml.tables" -}}
{{- $name := index . 0 }}
{{- range index . 1 }}

[[{{ $name }}]]
{{- range $key, $value := . }}
{{ $key }} = {{ include "portcullis.toml.value" $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* config.toml */}}
{{- define "portcullis.config" -}}
{{- $v := .Values -}}
listen = {{ printf "%s:%d" $v.bindAddress (int $v.ports.grpc) | toJson }}
admin_listen = {{ printf "%s:%d" $v.bindAddress (int $v.ports.admin) | toJson }}
drain_timeout_ms = {{ int64 $v.drainTimeoutMs }}
policy_dir = "/etc/portcullis/policies"
backend = {{ toJson $v.backend }}
{{- with $v.defaultAccountId }}
default_account_id = {{ toJson . }}
{{- end }}
{{- with $v.defaultRegion }}
default_region = {{ toJson . }}
{{- end }}
{{- if eq $v.ledger.engine "memory" }}
ledger = "memory"
{{- else if eq $v.ledger.engine "sqlite" }}
ledger = "sqlite:/var/lib/portcullis/ledger.db"
{{- end }}
tls = {{ toJson $v.tls.mode }}
{{- if eq $v.tls.mode "server" }}
tls_cert_file = "/etc/portcullis/tls/tls.crt"
tls_key_file = "/etc/portcullis/tls/tls.key"
tls_client_auth = {{ toJson $v.tls.clientAuth }}
{{- if ne $v.tls.clientAuth "off" }}
tls_client_ca_files = [{{ range $i, $key := $v.tls.clientCaKeys }}{{ if $i }}, {{ end }}{{ printf "/etc/portcullis/client-ca/%s" $key | toJson }}{{ end }}]
{{- end }}
{{- with $v.tls.spiffeTrustDomains }}
spiffe_trust_domains = {{ toJson . }}
{{- end }}
{{- end }}
{{- with $v.telemetry }}
{{- if .otlp.endpoint }}
otlp_endpoint = {{ toJson .otlp.endpoint }}
{{- if .otlp.caConfigMap }}
otlp_ca_file = "/etc/portcullis/otlp-ca/ca.crt"
{{- end }}
otlp_traces = {{ .otlp.traces }}
otlp_metrics = {{ .otlp.metrics }}
otlp_logs = {{ .otlp.logs }}
traces_sample_ratio = {{ include "portcullis.toml.value" .sampleRatio }}
service_name = {{ toJson .serviceName }}
{{- end }}
{{- end }}
{{- range $key, $value := $v.config }}
{{- if not (kindIs "slice" $value) }}
{{ $key }} = {{ include "portcullis.toml.value" $value }}
{{- else if not (kindIs "map" (first $value)) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- if eq $v.backend "ec2" }}
{{- include "portcullis.toml.tables" (list "ec2_targets" $v.ec2.targets) }}
{{- end }}
{{- with $v.auth.kubernetes }}
{{- if .enabled }}

[[jwt_issuers]]
issuer = {{ toJson .issuer }}
audiences = [{{ toJson .audience }}]
jwks_url = {{ toJson .jwksUrl }}
{{- if .readFromApiServer }}
jwks_ca_file = "/var/run/portcullis/api-server/ca.crt"
jwks_token_file = "/var/run/portcullis/api-server/token"
{{- end }}
algorithms = ["RS256", "ES256"]
groups_claims = ["kubernetes.io.namespace"]
groups_prefix = {{ toJson .groupsPrefix }}
{{- end }}
{{- end }}
{{- include "portcullis.toml.tables" (list "jwt_issuers" $v.auth.jwtIssuers) }}
{{- include "portcullis.toml.tables" (list "static_tokens" $v.auth.staticTokens) }}
{{- range $key, $value := $v.config }}
{{- if and (kindIs "slice" $value) (kindIs "map" (first $value)) }}
{{- include "portcullis.toml.tables" (list $key $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where the pod is, for the collector. $(NAME) is the kubelet's to fill in. */}}
{{- define "portcullis.resourceAttributes" -}}
{{- $all := list }}
{{- if .Values.telemetry.kubernetesAttributes }}
{{- $all = list "k8s.namespace.name=$(K8S_NAMESPACE)" "k8s.pod.name=$(K8S_POD)" "k8s.pod.uid=$(K8S_POD_UID)" "k8s.node.name=$(K8S_NODE)" (printf "k8s.deployment.name=%s" (include "portcullis.fullname" .)) "k8s.container.name=portcullis" }}
{{- end }}
{{- range $name, $value := .Values.telemetry.resourceAttributes }}
{{- $all = append $all (printf "%s=%s" $name ($value | toString | urlquery | replace "+" "%20")) }}
{{- end }}
{{- join "," $all }}
{{- end }}

{{/* The collector's port, if there is one. */}}
{{- define "portcullis.otlpPort" -}}
{{- if .Values.networkPolicy.egress.otlpPort }}
{{- int .Values.networkPolicy.egress.otlpPort }}
{{- else if .Values.telemetry.otlp.endpoint }}
{{- $host := (urlParse .Values.telemetry.otlp.endpoint).host }}
{{- default (ternary "443" "80" (hasPrefix "https:" .Values.telemetry.otlp.endpoint)) (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $host)) }}
{{- end }}
{{- end }}

{{/* Ports that the chart was given in URLs, other than 443: EC2's endpoint, and where issuers' keys are. */}}
{{- define "portcullis.urlPorts" -}}
{{- $urls := list }}
{{- if eq .Values.backend "ec2" }}
{{- $urls = append $urls (default "" .Values.config.ec2_endpoint_url) }}
{{- end }}
{{- if .Values.auth.kubernetes.enabled }}
{{- $urls = append $urls .Values.auth.kubernetes.jwksUrl }}
{{- end }}
{{- range .Values.auth.jwtIssuers }}
{{- $urls = append $urls (default "" .jwks_url) }}
{{- end }}
{{- $ports := list }}
{{- range compact $urls }}
{{- $ports = append $ports (default (ternary "443" "80" (hasPrefix "https:" .)) (regexFind "[0-9]+$" (regexFind ":[0-9]+$" (urlParse .).host))) }}
{{- end }}
{{- without $ports "443" | uniq | sortAlpha | join " " }}
{{- end }}

{{/* Whether the pods ask EKS Pod Identity or the node's metadata for credentials. */}}
{{- define "portcullis.asksMetadata" -}}
{{- $said := .Values.networkPolicy.egress.awsMetadata }}
{{- if or (eq $said "on") (and (eq $said "auto") (eq .Values.backend "ec2") (not .Values.serviceAccount.roleArn)) }}yes{{ end }}
{{- end }}

{{/* What docs/drain.md adds up: all that the end of a pod may take, in seconds. */}}
{{- define "portcullis.gracePeriod" -}}
{{- $otlp := ternary (default 5000 .Values.config.otlp_timeout_ms) 0 (ne .Values.telemetry.otlp.endpoint "") -}}
{{- add (ceil (divf .Values.drainTimeoutMs 1000)) (ceil (divf (default 0 .Values.config.drain_delay_ms) 1000)) (ceil (divf $otlp 1000)) .Values.preStopSleepSeconds 10 }}
{{- end }}

{{/* The container's environment. */}}
{{- define "portcullis.env" -}}
{{- $v := .Values -}}
{{- if eq $v.ledger.engine "postgres" }}
- name: PORTCULLIS_LEDGER
  valueFrom:
    secretKeyRef:
      name: {{ $v.ledger.postgres.existingSecret }}
      key: {{ $v.ledger.postgres.key }}
{{- end }}
{{- if $v.telemetry.otlp.endpoint }}
{{- with $v.telemetry.otlp.headersSecret }}
- name: PORTCULLIS_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $v.telemetry.otlp.headersKey }}
{{- end }}
{{- if $v.telemetry.kubernetesAttributes }}
{{- range $name, $path := dict "K8S_NAMESPACE" "metadata.namespace" "K8S_POD" "metadata.name" "K8S_POD_UID" "metadata.uid" "K8S_NODE" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
{{- end }}
{{- with include "portcullis.resourceAttributes" . }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ toJson . }}
{{- end }}
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What cannot work is refused here, with what to do. */}}
{{- define "portcullis.check" -}}
{{- $v := .Values -}}
{{- $several := or (gt (int $v.replicaCount) 1) $v.autoscaling.enabled -}}
{{- if and $several (ne $v.ledger.engine "postgres") }}
{{- fail (printf "ledger.engine %s belongs to one process: several replicas or autoscaling need ledger.engine postgres" $v.ledger.engine) }}
{{- end }}
{{- if and $several (eq $v.backend "sandbox") }}
{{- fail "each replica would have a sandbox of its own: several replicas or autoscaling need backend ec2 (an emulator's address goes into config.ec2_endpoint_url)" }}
{{- end }}
{{- if and (eq $v.backend "ec2") (eq $v.ledger.engine "memory") }}
{{- fail "with backend ec2 a restart must not forget what was sent: set ledger.engine to sqlite or postgres" }}
{{- end }}
{{- if and (eq $v.backend "ec2") (not $v.ec2.targets) (not $v.configSecret) }}
{{- fail "backend ec2 needs ec2.targets: which accounts and Regions are served" }}
{{- end }}
{{- if and $v.ec2.targets (ne $v.backend "ec2") }}
{{- fail "ec2.targets do nothing with backend sandbox: set backend to ec2" }}
{{- end }}
{{- range $v.ec2.targets }}
{{- if hasKey . "external_id" }}
{{- fail "an external_id is a secret and this would be a ConfigMap: put the whole config.toml into a Secret and name it in configSecret" }}
{{- end }}
{{- end }}
{{- if and (eq $v.ledger.engine "postgres") (not $v.ledger.postgres.existingSecret) }}
{{- fail "ledger.engine postgres needs ledger.postgres.existingSecret: the Secret that has the URL" }}
{{- end }}
{{- if and (or $v.ledger.postgres.existingSecret $v.ledger.postgres.caConfigMap) (ne $v.ledger.engine "postgres") }}
{{- fail (printf "ledger.postgres does nothing with ledger.engine %s: set it to postgres" $v.ledger.engine) }}
{{- end }}
{{- if and $v.ledger.sqlite.existingClaim (ne $v.ledger.engine "sqlite") }}
{{- fail (printf "ledger.sqlite.existingClaim does nothing with ledger.engine %s: set it to sqlite" $v.ledger.engine) }}
{{- end }}
{{- if and $v.serviceAccount.roleArn (not $v.serviceAccount.create) }}
{{- fail "serviceAccount.roleArn is an annotation of the service account that the chart makes: with create false annotate yours (eks.amazonaws.com/role-arn), leave roleArn empty, and set networkPolicy.egress.awsMetadata to \"off\", in quotes" }}
{{- end }}
{{- if and (eq $v.tls.mode "server") (not $v.tls.existingSecret) }}
{{- fail "tls.mode server needs tls.existingSecret: a Secret of type kubernetes.io/tls" }}
{{- end }}
{{- if and $v.tls.certManager.enabled (ne $v.tls.mode "server") }}
{{- fail "tls.certManager makes a certificate that nobody uses unless tls.mode is server" }}
{{- end }}
{{- if and $v.tls.spiffeTrustDomains (or (ne $v.tls.mode "server") (eq $v.tls.clientAuth "off")) }}
{{- fail "tls.spiffeTrustDomains does nothing without certificates of clients: it needs tls.mode server and tls.clientAuth optional or required" }}
{{- end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef) }}
{{- fail "tls.certManager needs issuerRef" }}
{{- end }}
{{- if and (ne $v.tls.clientAuth "off") (or (ne $v.tls.mode "server") (not $v.tls.clientCaConfigMap)) }}
{{- fail "tls.clientAuth needs tls.mode server and tls.clientCaConfigMap: the CAs of the clients" }}
{{- end }}
{{- if and (ne $v.tls.clientAuth "off") (not $v.tls.clientCaKeys) }}
{{- fail "tls.clientAuth needs tls.clientCaKeys: which keys of tls.clientCaConfigMap hold the CAs" }}
{{- end }}
{{- if and (eq $v.backend "sandbox") (ne (empty $v.defaultAccountId) (empty $v.defaultRegion)) (not $v.configSecret) }}
{{- fail "with backend sandbox give both of defaultAccountId and defaultRegion, or none" }}
{{- end }}
{{- if or (hasPrefix "127." $v.bindAddress) (has $v.bindAddress (list "localhost" "[::1]")) }}
{{- fail (printf "bindAddress %s: nothing reaches that from outside the pod, not even the kubelet's probes: 0.0.0.0, or [::]" $v.bindAddress) }}
{{- end }}
{{- if eq (int $v.ports.grpc) (int $v.ports.admin) }}
{{- fail (printf "ports.grpc and ports.admin are both %d: two listeners need two ports" (int $v.ports.grpc)) }}
{{- end }}
{{- if and $v.policies.existingConfigMap (or $v.policies.files (not (has (toJson $v.policies.sets) (list "[]" "[\"sandbox\"]")))) }}
{{- fail "policies.existingConfigMap replaces policies.sets and policies.files: put them there, or do without it" }}
{{- end }}
{{- if and $v.autoscaling.enabled (not (dig "requests" "cpu" (dig "limits" "cpu" "" $v.resources) $v.resources)) }}
{{- fail "autoscaling goes by the part of the CPU request that is used: it needs resources.requests.cpu" }}
{{- end }}
{{- if not (or $v.auth.kubernetes.enabled $v.auth.jwtIssuers $v.auth.staticTokens (ne $v.tls.clientAuth "off") $v.configSecret) }}
{{- fail "nobody could call: enable auth.kubernetes, or give auth.jwtIssuers, auth.staticTokens or tls.clientAuth" }}
{{- end }}
{{- if not (or $v.policies.sets $v.policies.files $v.policies.existingConfigMap) }}
{{- fail "callers are authenticated, so policies are needed: policies.sets, policies.files or policies.existingConfigMap" }}
{{- end }}
{{- with $v.telemetry }}
{{- if and (not .otlp.endpoint) (or .otlp.headersSecret .otlp.caConfigMap .resourceAttributes) }}
{{- fail "telemetry does nothing without telemetry.otlp.endpoint" }}
{{- end }}
{{- if and .otlp.caConfigMap (not (hasPrefix "https:" .otlp.endpoint)) }}
{{- fail "telemetry.otlp.caConfigMap does nothing unless telemetry.otlp.endpoint is an https URL" }}
{{- end }}
{{- if and .otlp.endpoint $v.configSecret }}
{{- fail "configSecret replaces what telemetry.otlp.endpoint would write: put otlp_endpoint there" }}
{{- end }}
{{- range tuple "otlp_endpoint" "otlp_headers" "otlp_ca_file" "otlp_traces" "otlp_metrics" "otlp_logs" "traces_sample_ratio" "service_name" "resource_attributes" }}
{{- if hasKey $v.config . }}
{{- fail (printf "config.%s: the chart has a value of its own for this, see telemetry" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range tuple "listen" "admin_listen" "drain_timeout_ms" "policy_dir" "backend" "default_account_id" "default_region" "ledger" "tls" "tls_cert_file" "tls_key_file" "tls_client_auth" "tls_client_ca_files" "spiffe_trust_domains" "ec2_targets" "jwt_issuers" "static_tokens" }}
{{- if hasKey $v.config . }}
{{- fail (printf "config.%s: the chart has a value of its own for this" .) }}
{{- end }}
{{- end }}
{{- if $v.networkPolicy.enabled }}
{{- $outside := false }}
{{- range $v.networkPolicy.clients }}
{{- $outside = or $outside (hasKey . "ipBlock") }}
{{- end }}
{{- if and (ne $v.service.type "ClusterIP") (not $outside) }}
{{- fail (printf "service.type %s: what comes from outside the cluster, a load balancer's health checks among it, is no pod: networkPolicy.clients needs an ipBlock with the networks that it comes from" $v.service.type) }}
{{- end }}
{{- if and $v.serviceMonitor.enabled (not $v.networkPolicy.monitoring) }}
{{- fail "serviceMonitor: networkPolicy.monitoring has to let Prometheus in, or every instance is down to it: the labels of its namespace, or [{podSelector: {}}] if it is in the release's own" }}
{{- end }}
{{- end }}
{{- if and $v.configSecret $v.config }}
{{- fail "configSecret replaces config: give one of them" }}
{{- end }}
{{- /* auth.kubernetes may stay: it also mounts the token that the API server's keys are read with. */}}
{{- range $name, $given := dict "ec2.targets" $v.ec2.targets "auth.jwtIssuers" $v.auth.jwtIssuers "auth.staticTokens" $v.auth.staticTokens }}
{{- if and $v.configSecret $given }}
{{- fail (printf "configSecret replaces what %s would write: put it there" $name) }}
{{- end }}
{{- end }}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas %d is more than autoscaling.maxReplicas %d" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and (has "sandbox" $v.policies.sets) (not $v.policies.existingConfigMap) (or (eq $v.backend "ec2") $v.configSecret) }}
{{- fail "policies.sets: sandbox permits every caller everything, and is for the sandbox alone: with backend ec2 or a configSecret name others (team-by-tag, guardrails, ...)" }}
{{- end }}
{{- if and $v.prometheusRule.enabled (contains "//example.invalid/" $v.prometheusRule.runbookBase) }}
{{- fail "prometheusRule needs prometheusRule.runbookBase: where those who are woken find your copy of docs/runbook.md" }}
{{- end }}
{{- end }}
