"""vLLM's engine in virtual time, computed fast.

The schedules, tokens and times are those of the mock's engine (`vllm_mock.engine`), which computes one step at a time.
The cost here grows with the number of requests, not of tokens. A property test compares both, step by step.
"""
