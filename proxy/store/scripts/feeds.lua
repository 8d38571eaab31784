-- What accounts read of their jobs' events.

-- Of the account's job alone, unless the account is ''.
function commands.read(job, after, account)
  if account ~= '' and not line_of(account, job) then
    return {}
  end
  return call('LRANGE', 'pollcast:events:' .. job, after, -1)
end

function commands.read_account(account, after, limit)
  local head, floor = unpack(call('HMGET', 'pollcast:account:' .. account, 'head', 'floor'))
  if not head or tonumber(after) < tonumber(floor) or tonumber(after) > tonumber(head) then
    return false
  end
  local found = {head}
  local entries = call('XRANGE', 'pollcast:feed:' .. account, '(' .. after .. '-0', '+', 'COUNT', limit)
  for _, entry in ipairs(entries) do
    local job, n = string.match(entry[2][2], '^(%S+) (%d+)$')
    table.insert(found, {job, n, call('LINDEX', 'pollcast:events:' .. job, n - 1)})
  end
  return found
end

-- The newest event of each of the jobs, as the account's feed stood at `head`; streamed text is left out.
function commands.newest(account, head, ...)
  local found = {}
  head = tonumber(head)
  for _, job in ipairs({...}) do
    local n = line_of(account, job)
      and tonumber(call('HGET', 'pollcast:work:' .. job, 'shown') or call('LLEN', 'pollcast:events:' .. job))
    while n and n > 0 do
      local event = call('LINDEX', 'pollcast:events:' .. job, n - 1)
      local position, mark = string.match(event, '^(%S+) (%S+) ')
      if tonumber(position) <= head and mark ~= 'd' then
        table.insert(found, {job, n, event})
        break
      end
      n = n - 1
    end
  end
  return found
end
