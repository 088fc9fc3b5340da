"""Any torch model cut into parts that learn by themselves, in pure torch."""
