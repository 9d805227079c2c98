"""From a benchmark of a real server to the four numbers of the speed model."""
