"""The lab and its twin on virtual time, side by side."""
