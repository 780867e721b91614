"""Plots and reports, drawn from the records of finished runs."""
