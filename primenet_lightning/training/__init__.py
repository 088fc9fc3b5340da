"""The engine: trains the stages of any network, each learner by its own loss and optimizer."""
