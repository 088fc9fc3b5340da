"""Stages that learn at the same time, in several processes, to the numbers of one."""

from primenet_lightning.pipeline.strategy import LocalPipeline, register

__all__ = ["LocalPipeline"]

register()
