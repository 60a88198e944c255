"""Orthanc, Python plugin: send every stable CT and MR series to segnode, and keep trying.

"Plugins": [".../libOrthancPython.so"], "PythonScript": "/etc/orthanc/forward.py"
"DicomModalities": {"segnode": ["SEGNODE", "127.0.0.1", 11112]}
"StableAge": 2

A job that fails, because the node is down or full, is submitted again after 5 s, 10 s, 20 s ... and
then every 10 minutes, until it is done.
"""

import json
import threading

import orthanc  # type: ignore[import-not-found]

NODE = "segnode"
NODE_AE_TITLE = "SEGNODE"
WANTED = {"CT", "MR", "PT"}
FIRST_WAIT_S, LONGEST_WAIT_S = 5, 600

_waits_s = {}


def forward(series_id):
    tags = json.loads(orthanc.RestApiGet("/series/" + series_id))["MainDicomTags"]
    instances = json.loads(orthanc.RestApiGet("/series/" + series_id + "/instances"))
    sender = orthanc.RestApiGet("/instances/" + instances[0]["ID"] + "/metadata/RemoteAET").decode()
    if tags.get("Modality") in WANTED and sender != NODE_AE_TITLE:
        body = {"Resources": [series_id], "Synchronous": False}
        orthanc.RestApiPost("/modalities/" + NODE + "/store", json.dumps(body))


def resubmit_later(job_id):
    job = json.loads(orthanc.RestApiGet("/jobs/" + job_id))
    if job.get("Type") != "DicomModalityStore" or job["Content"].get("RemoteAet") != NODE_AE_TITLE:
        return
    wait_s = _waits_s.get(job_id, FIRST_WAIT_S)
    _waits_s[job_id] = min(2 * wait_s, LONGEST_WAIT_S)
    orthanc.LogWarning("segnode did not take job " + job_id + ", again in %d s" % wait_s)
    timer = threading.Timer(wait_s, orthanc.RestApiPost, ["/jobs/" + job_id + "/resubmit", "{}"])
    timer.daemon = True
    timer.start()


def on_change(change_type, _level, resource):
    # Orthanc holds a lock during the callback: the REST calls must come from another thread
    if change_type == orthanc.ChangeType.STABLE_SERIES:
        threading.Thread(target=forward, args=[resource], daemon=True).start()
    elif change_type == orthanc.ChangeType.JOB_FAILURE:
        threading.Thread(target=resubmit_later, args=[resource], daemon=True).start()
    elif change_type == orthanc.ChangeType.JOB_SUCCESS:
        _waits_s.pop(resource, None)


orthanc.RegisterOnChangeCallback(on_change)
