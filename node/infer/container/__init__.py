"""Runner kind ``container``: an image that keeps MHub's contract, run by podman or docker.

What enters: the files of the input series. What leaves: labels on the grid of the first input, so
that what is delivered is made and verified by this node like any other result; the container's own
objects go nowhere. Its exit code is worth nothing, MHub's is 0 whatever happens: success is an output
that can be read, is about the input, lies on its grid and holds labels of the model.

Who owns what: the input is mounted read-only; the output folder is a fresh volume of the engine,
taken out as a tar stream by this process, so every file on this machine is its own, whoever the image
runs as and whether the engine is root's or not. A bind mount would leave files of root behind that
nobody else may delete.

What can fail: ``JobFailed``, in one sentence without the container's own words: a log may quote
headers, so it is kept as a file beside the job's results.

Source: PS3.3 C.8.20 (Segmentation); NIfTI-1 (as SimpleITK reads it).
"""
