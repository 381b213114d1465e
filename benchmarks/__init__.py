"""Benchmarks of beiran beside other programs, in the same run on the same machine."""
