"""What users write: the Kubernetes objects that a gateway and its pools are made of, parsed, checked and typed."""
