"""Is a Δ more than chance? Pure functions of arrays, one small module per question.

Procedures and their promises are those that were measured by simulation; ``docs/statistics.md`` has the
table of target against measured. What does not hold its promise at five seeds is not here: no bootstrap
of a range or of five values, no permutation within columns of two levels.

``scipy.stats`` and ``scipy.optimize`` are reached through ``scipy``, which loads them at first use:
commands that make no statistics start 0.7 s sooner.
"""
