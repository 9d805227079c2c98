"""`make bench-report`: what the picker is worth, on this machine: both ports under the loads of the nightly job."""
