//go:build tools

// Package conformance pins the programs that run.sh builds.
package conformance

import (
	_ "sigs.k8s.io/gateway-api-inference-extension/conformance"
	_ "sigs.k8s.io/gateway-api/conformance/echo-basic"
)
