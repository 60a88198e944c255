"""Infer: the frames of a series become a volume, a model makes labels of it, a child process pays.

What enters: a model folder, a stack of frames judged regular by the gate, and the files that hold
them. What leaves: labels on the source grid, exclusive or as bits of regions that overlap, and a
durable file of them.

::

    registry     models/<name>/ -> ModelSpec, every mistake with its path
                 (model_file: the form of model.yaml, labels_table: labels.csv, plausible: bounds)
    kinds        KINDS: runner kind -> its class; runner_part: what such a class says of itself
    revision     the revision that a module declares; what digests cover of our code
    volume       stack + files  -> Volume: numbers of one quantity, (slice, row, column)
                 (codestream: what a compressed frame says about its size)
    assets       files that a model needs beyond its folder, each held to its hash; what a child
                 keeps between jobs
    run_context  run_model: what a kind is given, the call of its worker's side, what is checked
    python/      runner kind "python": a function of this package, or of the model's own folder
    bundle/      runner kind "monai_bundle": any MONAI bundle, unchanged
    container/   runner kind "container": an image with MHub's contract (mhub/: its cards)
    brain/       MeshNet and mindgrab, and what brain models need done before: strip, register
    labels_file  labels <-> one durable file
    measure      labels -> how large each is and where, and whether a patient can have it
    devices      on what models run: the GPUs that torch sees, asked in a process of its own
    runner       the parent's side: one warm child per worker, deadline, cancel, respawn
    child        the child's side: resolves a target, calls it, answers over its own socket
                 (report: stages and remarks)
    ct_tissue, threshold    entries of the runner kind "python"

Everything that can crash, hang or eat memory (codecs, model libraries) runs in the child, and only
there; the parent never imports a codec, SimpleITK or torch. A child that dies costs one attempt of
one job. The whole road of a job may run inside one child: ``Runner.start`` takes any
"module:function" and a request of plain values.

What can fail: ``ConfigInvalid`` (a model folder), ``JobFailed`` (permanent when another attempt
would end the same way: a frame that cannot be decoded, a label that the model does not describe),
``SeriesUnusable`` (SUV cannot be computed).

Source: PS3.3 C.7.6.3 (Image Pixel), C.7.5.1.1.2 (padding), C.11.1 (Modality LUT), PS3.5 8 (pixel
encoding), A.4 (encapsulation).
"""
