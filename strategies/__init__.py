"""Token-selection strategies, one file a rule; README.md is the recipe."""
