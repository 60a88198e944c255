-- Orthanc, Lua: send every stable CT and MR series to segnode, in one association.
--
-- "LuaScripts": ["/etc/orthanc/forward.lua"]
-- "DicomModalities": {"segnode": ["SEGNODE", "127.0.0.1", 11112]}
-- "StableAge": 2          seconds of quiet after which Orthanc calls a series stable (60 by default)
--
-- Orthanc does not retry a failed job by itself: forward.py does.

local NODE = 'segnode'                 -- the key in "DicomModalities"
local NODE_AE_TITLE = 'SEGNODE'        -- what comes from the node never goes back to it
local WANTED = { CT = true, MR = true, PT = true }

function OnStableSeries(seriesId, tags, metadata)
  if WANTED[tags['Modality']] and metadata['RemoteAET'] ~= NODE_AE_TITLE then
    -- SendToModality takes instances only; the REST call takes a series
    RestApiPost('/modalities/' .. NODE .. '/store',
                DumpJson({ Resources = { seriesId }, Synchronous = false }, true))
  end
end
