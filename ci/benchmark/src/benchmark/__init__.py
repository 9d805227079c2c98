"""A load client for OpenAI-compatible servers, with the flags, the arithmetic and the summary of `vllm bench serve`.

The packages in the order of the data: `tokens` and `datasets` make a `Workload`. `load` sends it and measures each
request. `replicas` samples the model servers' metrics during the run. `results` computes figures from samples.
`compare` runs several targets and judges their differences."""
