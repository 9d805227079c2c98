"""`picker standalone`: the whole gateway on one machine.

Three processes, as on Kubernetes. The first is the control plane: it turns the manifests into Envoy's configuration, as
Envoy Gateway does there, and keeps the other two, as the kubelet does. Envoy and the picker are its children, so that
neither takes the other with it: a picker that is killed is started again, and Envoy meanwhile does with its requests
what each pool's failure mode says. When Envoy ends, so does all of it."""
