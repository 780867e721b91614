"""Diagnostics of single nodes and fixed contexts."""
