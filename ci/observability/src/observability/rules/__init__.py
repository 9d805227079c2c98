"""Recording rules and alerts."""

from observability.rules.alerts import GATEWAY_ALERTS, SERVER_ALERTS
from observability.rules.recording import GATEWAY_RECORDINGS, SERVER_RECORDINGS
from observability.rules.rule import Group

GROUPS = (
    Group("vllm-service", (*SERVER_RECORDINGS, *SERVER_ALERTS)),
    Group("inference-gateway", (*GATEWAY_RECORDINGS, *GATEWAY_ALERTS)),
)

__all__ = ["GROUPS", "Group"]
