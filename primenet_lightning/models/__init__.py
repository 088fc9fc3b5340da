"""LightningModules: a network and its options each."""

import primenet_lightning.pipeline  # noqa: F401  so that a Trainer knows its strategy by name
