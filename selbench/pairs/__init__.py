"""Known teacher-student pairs, one module a family."""
