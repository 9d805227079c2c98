"""The response to `GET /v1/models`, in the shapes of OpenAI and of Anthropic."""

import json

from picker.xds.model_names import HostModels

MAX_LISTED = 1000
"""Limit on the listed models. With the longest names the response has 0.5 MB. Judgement."""

OWNER = "inference-gateway"


def openai_list(models: HostModels) -> str:
    """Returns OpenAI's list (https://platform.openai.com/docs/api-reference/models/list). An adapter has vLLM's field
    `parent` too."""
    data: list[dict[str, object]] = []
    for name in _listed(models):
        created = int(models.names[name].timestamp())
        item: dict[str, object] = {"id": name, "object": "model", "created": created, "owned_by": OWNER}
        if name in models.bases:
            item["parent"] = models.bases[name]
        data.append(item)
    return json.dumps({"object": "list", "data": data})


def anthropic_list(models: HostModels) -> str:
    """Returns Anthropic's list (https://docs.anthropic.com/en/api/models-list). It has a single page. An unknown
    creation time is the epoch."""
    names = _listed(models)
    data = [
        {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": models.names[name].strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for name in names
    ]
    first, last = (names[0], names[-1]) if names else (None, None)
    return json.dumps({"data": data, "has_more": False, "first_id": first, "last_id": last})


def _listed(models: HostModels) -> list[str]:
    return sorted(models.names)[:MAX_LISTED]
