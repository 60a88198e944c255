"""MHub's model cards (``meta.json``), and the draft of a model folder that one of them gives.

A card says less than a model folder needs and is written for people: a draft is text to be read, put
right and checked (``segnode models check``), never something that runs by itself.

What can fail: ``ConfigInvalid``: the file is no card, or is of a model whose output is no
segmentation of series.
"""
