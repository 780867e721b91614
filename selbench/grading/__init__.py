"""Is this answer right? Extraction of the final answer, mathematical equality, and a typed outcome for everything else.

`extract` finds what a response states as its answer, in time linear in its length. Plain numbers are compared as exact rationals
in this process; everything else is judged by worker processes that are killed at their wall-clock limit (a thread or a signal
cannot stop sympy). Model text is parsed as mathematics, never evaluated as Python. Failure never looks like data: what could not
be read, was cut off, took too long or broke has a verdict of its own.

    extract.py      response -> final answer; plain numbers as exact rationals
    tidy.py         LaTeX, plain typing and Unicode -> one form
    latex.py        a LaTeX or plain-text formula -> sympy, with limits on depth and on the size of numbers
    library.py      sums, integrals, limits: latex2sympy2
    symbols.py      the vocabulary of formulas and the limits on numbers
    reading.py      an answer -> its structure: numbers with units, lists, sets, tuples, intervals, relations, words
    units.py        units -> a dimension and an exact factor
    equivalence.py  are two such readings equal?
    equality.py     are two expressions equal? exact arithmetic first
    workers.py      killable worker processes with limits on time and memory
    graders.py      the named graders, `grade`, `grade_many`
"""

from selbench.grading.extract import exact, extract, gold_answer
from selbench.grading.graders import GRADER, GRADERS, Grade, Item, Verdict, grade, grade_many

__all__ = ["GRADER", "GRADERS", "Grade", "Item", "Verdict", "exact", "extract", "gold_answer", "grade", "grade_many"]
