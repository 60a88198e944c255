"""Runner kind ``monai_bundle``: any MONAI bundle, unchanged, inside the warm worker.

::

    spec        before anything is loaded: what model.yaml and a job say, every file held to its hash
    runner      run: variant, image, ways down when memory runs out; warm: load beforehand
    loading     the bundle's parts, and the network, its own or the optimized one
    image       the channels of one image; the way back of labels
    fast        the bundle's own parts, fed from memory
                (resample: axis by axis; windows, vista: the network window by window;
                decide: labels while it slides)
    card        CUDA alone: number types, the same labels every time, windows recorded and replayed
    strict      the bundle's own command in a process of its own: the reference
    optimize    a TensorRT network, made and compared

What enters: volumes, by role. What leaves: labels on the grid of the first input, exclusive or as bits
of regions. A network stays loaded between jobs, in what the child keeps.

What can fail: ``JobFailed``: a file is missing or not the declared one, the configuration has no part
that is needed, the weights are not those of the network, the answer is no label map (all permanent).
Configuration is code, so nothing is opened before it was held to its hash.
"""
