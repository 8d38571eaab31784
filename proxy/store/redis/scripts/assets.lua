-- Records of the assets that clients uploaded. An unfinished job holds the assets that it names.
--
-- Uses, from shared.lua: call, commands.

function commands.add_asset(asset, account, type, size, blob, created_at)
  local name = 'pollcast:asset:' .. asset
  call('HSET', name, 'account', account, 'type', type, 'size', size, 'blob', blob, 'created_at', created_at)
  call('ZADD', 'pollcast:assets', created_at, asset)
end

local function is_held(asset)
  return call('EXISTS', 'pollcast:holds:' .. asset) == 1
end

-- Return 'held', or 'gone' if the asset is deleted now or was deleted before.
function commands.delete_asset(asset)
  if is_held(asset) then
    return 'held'
  end
  call('DEL', 'pollcast:asset:' .. asset)
  call('ZREM', 'pollcast:assets', asset)
  return 'gone'
end
