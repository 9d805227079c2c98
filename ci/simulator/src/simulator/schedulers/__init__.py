"""The picker's scheduler and those that it is compared with."""
