"""The same load on several targets, and whether what differs is more than noise."""
