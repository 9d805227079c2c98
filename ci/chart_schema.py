"""Write the chart's values.schema.json, which helm reads, from values.schema.yaml, which people do."""

import json
from pathlib import Path

import yaml

CHART = Path(__file__).parent.parent / "charts" / "inference-gateway"


def rendered() -> str:
    return json.dumps(yaml.safe_load((CHART / "values.schema.yaml").read_text()), indent=1) + "\n"


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(rendered())
