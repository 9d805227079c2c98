"""`picker standalone`: the whole gateway on one machine.

There are three processes, as on Kubernetes. The first is the control plane: it translates the manifests to Envoy's
configuration, like Envoy Gateway. It also supervises the other two, like the kubelet. Envoy and the picker are its
children, so that neither ends with the other. If the picker is killed, it is restarted, and meanwhile Envoy applies
each pool's failure mode. If Envoy ends, the whole gateway ends."""
