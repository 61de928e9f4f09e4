"""hrm-lab: experiment orchestration for the Hierarchical Reasoning Model."""

__version__ = "0.1.0"
