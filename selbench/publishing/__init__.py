"""Results for others: published from run folders, verified from their own records, repeated from a passport.

layout.py       which files of a run are published; the manifest with the SHA-256 of each
audit.py        do the runs of a folder belong together, and do their summaries say what their records say?
judged.py       stored answers judged again by the grader
publish.py      `selbench publish`: a run folder -> results/<protocol>, whole or not at all
verify.py       `selbench verify`: hashes, audit, verdicts, tables byte for byte
differences.py  where two executions of one cell part, in the order of causes
replay.py       `selbench replay`: a cell once more, and what became of it
"""
