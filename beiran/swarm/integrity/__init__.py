"""Whether pieces are right, which peers are to blame if not, and how wrong pieces are replaced."""
