"""Networks with several exits: who leaves where, at which thresholds, for which cost."""
