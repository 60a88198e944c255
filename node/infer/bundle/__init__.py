"""Runner kind ``monai_bundle``: any MONAI bundle, unchanged, inside the warm worker.

::

    spec               what model.yaml says to it, its mistakes, what this machine lacks
    runner             run: variant, image, ways down when memory runs out; warm: load beforehand
    config             the bundle's folder and configuration, every file held to its hash
    variant_selection  which variant a job runs, and which labels it wants
    image              one image of several series; the way back of labels
    fast               the bundle's own parts, fed from memory
                       (resample: axis by axis; windows, window_plan, slab: the sliding window;
                       decide, classifier: labels while it slides; postprocessing, vista)
    strict             the bundle's own command in a process of its own: the reference (nifti)
    optimize           a TensorRT network, made and compared (tensorrt, agreement); optimized: used

What enters: volumes, by role. What leaves: labels on the grid of the first input, exclusive or as bits
of regions. A network stays loaded between jobs, in what the child keeps.

What can fail: ``JobFailed``: a file is missing or not the declared one, the configuration has no part
that is needed, the weights are not those of the network, the answer is no label map (all permanent).
Configuration is code, so nothing is opened before it was held to its hash.
"""
