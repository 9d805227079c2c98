"""Log lines of scheduling decisions."""

import logging

import structlog

from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_observer import RejectedRequest, RequestObserver
from picker.requestcontrol.served_pool import ServedPool

log = structlog.get_logger(__name__)
_logger = logging.getLogger(__name__)


class DecisionLog(RequestObserver):
    """Logs each scheduling decision at level debug, with the request's id."""

    def scheduled(self, request: InFlightRequest, pool: ServedPool) -> None:
        # Checked first, because assembling the line takes half as long as a decision.
        if _logger.isEnabledFor(logging.DEBUG):
            log.debug(
                "request.scheduled",
                request_id=request.info.request_id or "",
                pool=request.pool,
                model=request.requested_model or "",
                prompt_tokens=request.request.prompt_tokens,
                endpoints=request.destination,
                served_model=request.served_model,
            )

    def rejected(self, request: RejectedRequest, pool: ServedPool | None) -> None:
        if _logger.isEnabledFor(logging.DEBUG):
            log.debug(
                "request.rejected",
                request_id=request.info.request_id or "",
                pool=request.pool,
                model=request.requested_model or "",
                prompt_tokens=request.prompt_tokens,
                status=request.rejection.status,
                reason=request.rejection.reason,
            )
