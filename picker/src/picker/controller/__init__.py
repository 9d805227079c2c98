"""The controller: writes statuses, certificates and route annotations to Kubernetes, and reads what Envoy Gateway's
hooks need."""
