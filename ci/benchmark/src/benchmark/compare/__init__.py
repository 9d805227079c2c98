"""Sends the same load to several targets, and judges whether their figures differ by more than noise."""
