"""The picker's state of the model servers: the metrics that they report, and the requests in flight there."""
