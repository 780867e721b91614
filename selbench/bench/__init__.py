"""Side-by-side benchmarks against other libraries; each prints a table and can write its numbers as JSON."""
