"""Stages that learn at the same time, in several processes, to the numbers of one."""
