"""MHub's model cards (``meta.json``), and the draft of a model folder that one of them gives.

::

    card     meta.json -> what it says, with DICOM's own words for modality and body part
    labels   its classes -> rows of labels.csv: codes of models that are here, else private ones
    draft    card -> model.yaml, labels.csv, README.md, and a rule; what a person must still look at

A card says less than a model folder needs and is written for people: a draft is text to be read, put
right and checked (``segnode models check``), never something that runs by itself.

What can fail: ``ConfigInvalid``: the file is no card, or is of a model whose output is no
segmentation of series.
"""
