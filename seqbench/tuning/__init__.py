"""Tuning: the same number of trials for every model, each a cell of the results store.

`dimensions.py` has what a setting can be, `space.py` what is searched of a model, `samplers.py` what is tried next,
`searches.py` what the store knows of earlier trials, `rounds.py` goes through all of it.

A trial is chosen by its validation figure. Its record holds nothing of the test, so that no test figure can decide.
"""
