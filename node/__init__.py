"""segnode: an AI node for DICOM networks.

The folder list is the road of one series::

    receive -> spool -> assemble -> route -> jobs -> infer -> encode -> verify -> deliver

``domain`` holds the nouns that travel on it, ``pipeline`` is the one room where stages meet.
"""

__version__ = "0.1.0"
