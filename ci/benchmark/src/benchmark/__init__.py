"""A load client for OpenAI-compatible servers, with the flags, the arithmetic and the summary of `vllm bench serve`.

The rooms, in the data's way: `tokens` and `datasets` make a `Workload`; `load` sends it and measures each request;
`replicas` watches the model servers meanwhile; `results` turns samples into figures; `compare` does all of it for
several targets and judges the difference."""
