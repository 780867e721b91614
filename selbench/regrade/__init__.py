"""Graders side by side on stored outputs: who scores what, where they disagree, which ranks depend on the grader. No model runs.

Written: `grades.json`, the same as tables in `grades.md`, and `disagreements.jsonl`. `grades.json`, schema 1, shares in [0, 1]:

- `graders`: name to version; `sources`: the files in order; `records`, `timeout_seconds`, `by`; `notes`: a sentence each;
- `systems`: per `task` and `system` the counts `records`, `problems` and `runs`, and in `graders` per grader `accuracy`, `low`, `high`,
  `interval` (its method) and `verdicts`, the count of every kind. They add up to `records`, the denominator whatever the verdict;
- `agreement`: per pair of `graders` the records that one calls correct and the other does not: `differ`, `share` of all records,
  `only_first`, `only_second`; `disagreements`: records on which not all agree, each a line of `disagreements.jsonl`;
- `ranks`: per task with two systems or more `order` (per grader `system` and `rank`, ties share the smaller one), `tau` (Kendall's tau-b
  per pair of `graders`, null where one of them ties all) and `changes`: pairs of `systems` whose order is not the same under all
  graders, the widest swing first: `kind` "reversed", or "tie" where they are level under some grader, and in `difference` per grader
  the first minus the second: `mean`, and for reversed pairs with the same problems `low` and `high` (paired bootstrap over problems);
- `stored`: what the records came with: per `grader` version `records`, and `moved`, the verdicts that the sympy grader now gives
  otherwise (null without it);
- `update`: null, or per rewritten file `path`, `records`, `moved`, `graders_before`, `accuracy_before`, `accuracy_after`.

The same call gives the same bytes, except that a verdict "timeout" depends on the machine's load.

    outputs.py     stored outputs of any accepted shape -> records
    comparison.py  verdicts -> the content of grades.json
    tables.py      that content as tables, for the screen and as Markdown
    rescore.py     the command: read, grade, compare, write, put back
"""

from selbench.regrade.comparison import compare, disagreements
from selbench.regrade.outputs import Record, has_outputs, read_outputs
from selbench.regrade.rescore import Report, regrade, update
from selbench.regrade.tables import show

__all__ = ["Record", "Report", "compare", "disagreements", "has_outputs", "read_outputs", "regrade", "show", "update"]
