"""The report of a reproduction, a pure function of its results."""
