"""Networks of whole heads, and what brings a head into the space that a network was trained in.

::

    tfjs        a TensorFlow.js layers model -> torch network; unknown layers are refused by name
    meshnet     runs such a chain over a whole volume with the memory of one layer
    conform     volume <-> the cube that brainchop's networks take: 256 voxels of 1 mm, axes LIA
    brainchop   entry of the runner kind "python": conform, network, way back; skull stripping
    register    rigid or affine registration, the same result every time; values at other places
    brats       for bundles ("brain_tumour"): four series -> one skull-stripped image of 1 mm, and back
    template    for bundles ("brain_template"): a T1 on a template's grid, and its labels back

What enters: volumes of any orientation, LPS geometry. What leaves: labels or masks on the grid of the
volume they came from. Nothing is random. ``torch`` is imported by the functions that need it, so that
this package can be looked at where torch is absent.

Networks know no left and right: brainchop's classes join both sides. Where left and right matter is
geometry alone, which is why every step here works in LPS and is tested by a marker in one hemisphere.

Registration is Mattes mutual information for contrasts that differ, mean squares for the template; one
thread adds up the metric, because the order of additions decides the last digits of a transform.
"""
