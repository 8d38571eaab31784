-- What accounts read of their jobs' events.

-- Of the account's job alone, unless the account is ''.
function commands.read(job, after, account)
  if account ~= '' and not line_of(account, job) then
    return {}
  end
  return call('LRANGE', 'pollcast:events:' .. job, after, -1)
end

-- Ends early before the event that goes beyond `most` bytes, and says so: the head, '1' or '0', then the events.
function commands.read_account(account, after, limit, most)
  local head, floor = unpack(call('HMGET', 'pollcast:account:' .. account, 'head', 'floor'))
  if not head or tonumber(after) < tonumber(floor) or tonumber(after) > tonumber(head) then
    return false
  end
  local found, size = {head, '0'}, 0
  local entries = call('XRANGE', 'pollcast:feed:' .. account, '(' .. after .. '-0', '+', 'COUNT', limit)
  for _, entry in ipairs(entries) do
    local job, n = string.match(entry[2][2], '^(%S+) (%d+)$')
    local event = call('LINDEX', 'pollcast:events:' .. job, n - 1)
    size = size + #event
    if size > tonumber(most) and #found > 2 then
      found[2] = '1'
      break
    end
    table.insert(found, {job, n, event})
  end
  return found
end

-- Where the newest event of each of the jobs is, as the account's feed stood at `head`; streamed text is left out.
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
        table.insert(found, {position, job, n, #event})
        break
      end
      n = n - 1
    end
  end
  return found
end

-- The events of these jobs and numbers that are still there.
function commands.at(...)
  local found, wanted = {}, {...}
  for index = 1, #wanted, 2 do
    local event = call('LINDEX', 'pollcast:events:' .. wanted[index], wanted[index + 1] - 1)
    if event then
      table.insert(found, {wanted[index], wanted[index + 1], event})
    end
  end
  return found
end
