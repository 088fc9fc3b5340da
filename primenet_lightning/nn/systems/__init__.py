"""What the systems of the paper's table 2 share, in pure torch."""
