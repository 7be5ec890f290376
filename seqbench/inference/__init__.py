"""Trained models in use: recommendations for raw histories, and states that grow item by item.

| file | what it does |
|---|---|
| runs.py | which run is meant by a folder, or by a data set and a model |
| items.py | raw item ids beside the weights |
| best.py | the best items of many histories, at the speed of ranking |
| states.py | states of many users: joined, picked, stored |
| compiled.py | the step of an incremental model without Python, by the instructions of program.py |
| trained.py | a trained model as its user sees it |
| users.py | histories from a file or from the data set, recommendations to a file |
| export.py | a trained model as files that run without seqbench |
"""
