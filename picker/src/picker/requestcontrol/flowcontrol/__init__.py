"""Flow control: queues of requests that wait for capacity, by criticality and flow."""
