"""HTTP: STOW-RS mounted, a REST API, probes for whoever watches the node.

Enters: ``api.WebServices`` (the catalogs of index, jobs and models, and what acts), the STOW-RS service
of ``node.receive.stow``, who may come in (``config.AuthConfig``). Leaves: an ASGI application
(``app.create_app``) and a server for it (``server.make_server``).

===========  ==============================================================================
path         what
===========  ==============================================================================
/dicom-web   STOW-RS: POST /studies, POST /studies/{study}
/api/v1      series, jobs, results, deliveries, quarantine, models; /api/openapi.json says all
/healthz     200 while the process lives
/readyz      200 or 503, with what needs a person
/metrics     counts of what was refused, as text for Prometheus
===========  ==============================================================================

What can fail: 401 comes before any other answer; 400, 404, 409, 410 and 503 carry one
sentence in ``detail``; an error of the node itself is 500 without a word about its inside. There is
no CORS and no cookie, nothing is loaded from other sites, and logs hold no query strings.

This part owns no SQL and no state: what it shows and what it changes goes through ``WebServices``.

Source: PS3.18 8 (common behaviour of DICOM web services)
"""
