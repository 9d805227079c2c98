"""The dashboards of the chart."""

from observability.dashboards.inference_gateway import INFERENCE_GATEWAY
from observability.dashboards.vllm_service import VLLM_SERVICE

DASHBOARDS = (VLLM_SERVICE, INFERENCE_GATEWAY)

__all__ = ["DASHBOARDS", "INFERENCE_GATEWAY", "VLLM_SERVICE"]
