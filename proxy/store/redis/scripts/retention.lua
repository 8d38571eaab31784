-- Retention: deletes old jobs, assets and idempotency keys, a limited number in each call.
--
-- Uses, from shared.lua: call, commands, words. From assets.lua: is_held.
-- Calls the commands delete_job of jobs.lua and delete_asset of assets.lua.

local function old_jobs(before, limit)
  local records = {}
  for _, job in ipairs(call('ZRANGEBYSCORE', 'pollcast:ended', '-inf', '(' .. before, 'LIMIT', 0, limit)) do
    table.insert(records, call('GET', 'pollcast:job:' .. job))
  end
  return records
end

local function old_assets(before, limit)
  local found, from = {}, 0
  repeat
    local old = call('ZRANGEBYSCORE', 'pollcast:assets', '-inf', '(' .. before, 'LIMIT', from, 100)
    for _, asset in ipairs(old) do
      if #found < limit and not is_held(asset) then
        table.insert(found, {asset, call('HGET', 'pollcast:asset:' .. asset, 'blob')})
      end
    end
    from = from + 100
  until #old < 100 or #found >= limit
  return found
end

-- Return the records of jobs that ended before `before`, and {asset, blob} of assets that were created before it.
function commands.find_old(before, limit)
  return {old_jobs(before, limit), old_assets(before, tonumber(limit))}
end

local function delete_idempotency_keys(before)
  for _, name in ipairs(call('ZRANGEBYSCORE', 'pollcast:spent', '-inf', '(' .. before, 'LIMIT', 0, 1000)) do
    local account, start = string.match(name, '^(%S+) ()')
    call('HDEL', 'pollcast:once:' .. account, string.sub(name, start))
    call('ZREM', 'pollcast:spent', name)
  end
end

-- Delete jobs ('account job account job ...') and assets. Return the assets that a new job holds by now.
function commands.delete_old(jobs, assets, keys_before)
  for account, job in string.gmatch(jobs, '(%S+) (%S+)') do
    commands.delete_job(account, job)
  end
  local held = {}
  for _, asset in ipairs(words(assets)) do
    if commands.delete_asset(asset) == 'held' then
      table.insert(held, asset)
    end
  end
  delete_idempotency_keys(keys_before)
  return held
end
