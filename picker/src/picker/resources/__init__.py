"""The Kubernetes objects of a gateway and its pools: parsed, validated and typed."""
