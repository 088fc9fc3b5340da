"""LightningModules: a network and its options each."""
