"""Orthanc, Python plugin: send every stable CT, MR and PET series to segnode, and keep trying.

A job that fails, because the node is down or full, is submitted again after 5 s, 10 s, 20 s ... and
then every 10 minutes, until it is done. Orthanc keeps its jobs over a restart, but not this plan:
what had failed before is submitted again when Orthanc starts.
"""

import json
import threading

import orthanc

NODE = "segnode"  # the key in "DicomModalities"
NODE_AE_TITLE = "SEGNODE"  # what came from the node does not go back to it
WANTED = {"CT", "MR", "PT"}
FIRST_WAIT_S, LONGEST_WAIT_S = 5, 600

waits_s = {}


def get(path):
    return json.loads(orthanc.RestApiGet(path))


def forward(series_id):
    series = get("/series/" + series_id)
    metadata = get("/series/" + series_id + "/metadata?expand")
    modality = series["MainDicomTags"].get("Modality")
    if modality in WANTED and metadata.get("RemoteAET") != NODE_AE_TITLE:
        body = {"Resources": [series_id], "Synchronous": False}
        orthanc.RestApiPost("/modalities/" + NODE + "/store", json.dumps(body))


def resubmit_later(job_id):
    job = get("/jobs/" + job_id)
    if job["Type"] != "DicomModalityStore" or job["Content"]["RemoteAet"] != NODE_AE_TITLE:
        return
    wait_s = waits_s.get(job_id, FIRST_WAIT_S)
    waits_s[job_id] = min(2 * wait_s, LONGEST_WAIT_S)
    orthanc.LogWarning(f"segnode did not take job {job_id}, again in {wait_s} s")
    timer = threading.Timer(wait_s, orthanc.RestApiPost, ["/jobs/" + job_id + "/resubmit", ""])
    timer.daemon = True
    timer.start()


def resubmit_old():
    for job_id in get("/jobs"):
        if get("/jobs/" + job_id)["State"] == "Failure":
            resubmit_later(job_id)


def on_change(change, _level, resource):
    # Orthanc waits for this function: calls to its REST API need a thread of their own
    if change == orthanc.ChangeType.STABLE_SERIES:
        threading.Thread(target=forward, args=[resource], daemon=True).start()
    elif change == orthanc.ChangeType.JOB_FAILURE:
        threading.Thread(target=resubmit_later, args=[resource], daemon=True).start()
    elif change == orthanc.ChangeType.JOB_SUCCESS:
        waits_s.pop(resource, None)
    elif change == orthanc.ChangeType.ORTHANC_STARTED:
        threading.Thread(target=resubmit_old, daemon=True).start()


orthanc.RegisterOnChangeCallback(on_change)
