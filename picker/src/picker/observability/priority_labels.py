"""Labels of priorities in metrics and logs. Priorities are integers that objects choose, so their number is limited."""

from picker.resources.inference import Criticality

MOST_PRIORITIES = 100
"""Priorities that have their own label, those of the criticalities included. Upstream's endpoint picker has 1,000.
Judgement: each is on one line of three families per model, and a pool with more is hard to reason about."""

OTHER = "other"
"""Label of all priorities beyond the limit."""


class PriorityLabels:
    """Assigns labels to priorities. A label is kept until the picker ends, because counters are."""

    def __init__(self) -> None:
        self._labels = {criticality.priority: str(criticality.priority) for criticality in Criticality}

    def of(self, priority: int | None) -> str:
        """Returns the label of `priority`: its number, or `OTHER` beyond the limit. Empty for None."""
        if priority is None:
            return ""
        label = self._labels.get(priority)
        if label is None:
            if len(self._labels) >= MOST_PRIORITIES:
                return OTHER
            label = self._labels[priority] = str(priority)
        return label


def criticality_name(priority: int | None) -> str:
    """Returns the criticality of `priority`. Empty for None, the priority of a request that was not read."""
    return Criticality.of_priority(priority).value if priority is not None else ""
