"""The folder of a run: its files, its summary, its report."""
