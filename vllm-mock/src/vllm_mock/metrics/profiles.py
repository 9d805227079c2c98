"""Metric families of each generation of vLLM, in the order of its page.

`v1-current` is vLLM 0.32 as recorded. Names, labels, buckets and order of the older ones come from that generation's
metric definitions. Values of all profiles change at the moments recorded for 0.32.
"""

from vllm_mock.metrics.v0 import v0
from vllm_mock.metrics.v1_current import v1_current
from vllm_mock.metrics.v1_early import v1_early

PROFILES = {
    "v1-current": v1_current(),
    "v1-0.10": v1_early(names_of_both=True),
    "v1-0.8": v1_early(names_of_both=False),
    "v0-0.6": v0(),
}
"""Profiles by their name in `--metrics-profile`."""
