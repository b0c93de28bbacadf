"""Data sets for examples and tests."""

from ._pbmc68k import pbmc68k_counts

__all__ = ["pbmc68k_counts"]
