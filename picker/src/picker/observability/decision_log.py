"""A line for each decision, for who wants to know where a request went and why."""

import logging

import structlog

from picker.bounded_text import shorten
from picker.requestcontrol.interfaces import Assignment, Desk, Wanted
from picker.requestcontrol.rejection import Rejection

log = structlog.get_logger(__name__)
_logger = logging.getLogger(__name__)


class LoggedDesk:
    """Another desk's decisions, told at level debug under the request's id; see `extproc.assignment.Desk`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def wants_response_headers(self, pool: str | None) -> bool:
        return self._desk.wants_response_headers(pool)

    def turned_away(self, wanted: Wanted, rejection: Rejection) -> None:
        self._desk.turned_away(wanted, rejection)
        if _logger.isEnabledFor(logging.DEBUG):
            told = log.bind(request_id=shorten(wanted.request_id or ""), pool=shorten(wanted.pool or ""))
            told.debug("request.turned_away", status=rejection.status, reason=rejection.reason)

    def assign(self, wanted: Wanted) -> Assignment | Rejection:
        assigned = self._desk.assign(wanted)
        # Asked first: putting a line together costs as much as half a decision.
        if _logger.isEnabledFor(logging.DEBUG):
            self._tell(wanted, assigned)
        return assigned

    def _tell(self, wanted: Wanted, assigned: Assignment | Rejection) -> None:
        told = log.bind(
            request_id=shorten(wanted.request_id or ""),
            pool=shorten(wanted.pool or ""),
            model=shorten(wanted.body.model or ""),
            prompt_tokens=wanted.body.prompt_tokens,
        )
        if isinstance(assigned, Rejection):
            told.debug("request.refused", status=assigned.status, reason=assigned.reason)
        else:
            told.debug("request.assigned", endpoints=assigned.destination, served_model=assigned.served_model)
