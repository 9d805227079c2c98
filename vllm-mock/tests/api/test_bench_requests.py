"""Recorded requests of `vllm bench serve`."""

import json

from mock_server import mock_server
from recordings import FOLDER


async def test_the_recorded_requests_of_vllm_bench_serve_are_answered() -> None:
    requests = json.loads((FOLDER / "bench" / "requests-sent.json").read_text())["requests"]
    async with mock_server() as mock:
        for request in requests:
            headers = {name: value for name, value in request["headers"] if name not in ("Host", "Content-Length")}
            content = json.dumps(request["body"]) if request["body"] else None
            response = await mock.client.request(request["method"], request["path"], headers=headers, content=content)
            assert response.status_code == 200, request["path"]
            if request["path"].endswith("completions"):
                usage = json.loads(response.text.split("data: ")[-2])["usage"]
                body = request["body"]
                assert usage["completion_tokens"] == body.get("max_tokens", body.get("max_completion_tokens"))
