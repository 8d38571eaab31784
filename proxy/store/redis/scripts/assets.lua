-- Bytes that clients brought in; an asset is held while an unfinished job names it.

function commands.add_asset(asset, account, type, size, blob, created_at)
  local name = 'pollcast:asset:' .. asset
  call('HSET', name, 'account', account, 'type', type, 'size', size, 'blob', blob, 'created_at', created_at)
  call('ZADD', 'pollcast:assets', created_at, asset)
end

local function is_held(asset)
  return call('EXISTS', 'pollcast:holds:' .. asset) == 1
end

-- Answers 'held', or 'gone': now, or before.
local function delete(asset)
  if is_held(asset) then
    return 'held'
  end
  call('DEL', 'pollcast:asset:' .. asset)
  call('ZREM', 'pollcast:assets', asset)
  return 'gone'
end

commands.delete_asset = delete
