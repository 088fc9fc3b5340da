"""Networks as rows of gradient-isolated stages, in pure torch: no Lightning, no torchmetrics."""
