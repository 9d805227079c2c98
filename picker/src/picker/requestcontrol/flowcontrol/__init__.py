"""Flow control: queues of requests that wait for capacity, by priority and flow."""
