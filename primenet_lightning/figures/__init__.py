"""All drawing, from numbers to a figure of matplotlib; who writes and shows it is another matter."""
