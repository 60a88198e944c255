-- Orthanc, Lua: send every stable CT, MR and PET series to segnode, in one association.
--
-- Nothing is tried again when the node does not answer: forward.py does that.

local NODE = 'segnode'            -- the key in "DicomModalities"
local NODE_AE_TITLE = 'SEGNODE'   -- what came from the node does not go back to it
local WANTED = { CT = true, MR = true, PT = true }

function OnStableSeries(seriesId, tags, metadata)
  if WANTED[tags['Modality']] and metadata['RemoteAET'] ~= NODE_AE_TITLE then
    -- SendToModality() wants the ID of an instance; this call takes a series
    RestApiPost('/modalities/' .. NODE .. '/store',
                DumpJson({ Resources = { seriesId }, Synchronous = false }, true))
  end
end
