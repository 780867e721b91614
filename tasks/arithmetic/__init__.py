"""Column addition, the task of the embedded pair."""
