"""Settings that have to be made before the first import of what they are for."""

import os

# These tests start processes beside a gRPC server of their own; gRPC's fork handlers can take the child down before it
# has become what it is to be.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
