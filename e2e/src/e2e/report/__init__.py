"""`make bench-report`: compares both ports on this machine, under the loads of the nightly job."""
