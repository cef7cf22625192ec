"""Searches: many trainings of one base, on Ray Tune.

Run folders are the truth: what is finished, where it was stopped and what it scored is read from
them, so that a search goes on after any end. Tune's own state is made anew each time.

    space.py           settings: drawing, checking   proposals.py  which trial is next
    book.py            what became of each trial     optuna_proposals.py  the same by Optuna
    early_stopping.py  ASHA that remembers           resources.py  what trials take, how many fit
    tuning.py          the Tune experiment
"""
