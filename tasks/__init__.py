"""Evaluation tasks: an ordinary lm-eval YAML and a small module each; README.md says how to add one."""
