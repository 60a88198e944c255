-- Orthanc, Lua: push every stable CT, MR and PET series to segnode by DICOMweb (STOW-RS).
--
-- Nothing is tried again when the node does not answer. What the node sends back by STOW-RS carries
-- no AE title: WANTED alone keeps it from going round.

local NODE = 'segnode'            -- the key in "DicomWeb", "Servers"
local WANTED = { CT = true, MR = true, PT = true }

function OnStableSeries(seriesId, tags, metadata)
  if WANTED[tags['Modality']] then
    -- false: the call belongs to a plugin, not to Orthanc itself
    RestApiPost('/dicom-web/servers/' .. NODE .. '/stow',
                DumpJson({ Resources = { seriesId }, Synchronous = false }, true), false)
  end
end
