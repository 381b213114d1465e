"""What beiran does beside what others do, in the same run on the same machine."""
