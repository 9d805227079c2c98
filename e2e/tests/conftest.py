"""Environment variables that have to be set before grpc is imported."""

import os

# These tests start processes while a gRPC server runs. gRPC's fork handlers can crash the child between fork and exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
