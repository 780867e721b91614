"""Worked examples that were computed by hand for the method reference, outside this code base."""
