-- Reads the events of a job, and the event feed of an account.
--
-- Uses, from shared.lua: call, commands. From jobs.lua: find_list_entry.

-- Return the job's events numbered above `after`. Return none if the job is another account's, unless `account` is ''.
function commands.read(job, after, account)
  if account ~= '' and not find_list_entry(account, job) then
    return {}
  end
  return call('LRANGE', 'pollcast:events:' .. job, after, -1)
end

-- Return the feed's head, '1' if the slice was cut at `max_bytes` (else '0'), then up to `limit` events, each as
-- {job, n, event}. The first event is returned even if it is larger. Return false for an invalid cursor `after`.
function commands.read_account(account, after, limit, max_bytes)
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
    if size > tonumber(max_bytes) and #found > 2 then
      found[2] = '1'
      break
    end
    table.insert(found, {job, n, event})
  end
  return found
end

-- Return {position, job, n, bytes} of each job's newest event at or below `head`, except streamed text.
function commands.newest_events(account, head, ...)
  local found = {}
  head = tonumber(head)
  for _, job in ipairs({...}) do
    local n = find_list_entry(account, job)
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

-- Return the events of 'job n job n ...' as {job, n, event}, without those that are deleted.
function commands.events_at(...)
  local found, wanted = {}, {...}
  for index = 1, #wanted, 2 do
    local event = call('LINDEX', 'pollcast:events:' .. wanted[index], wanted[index + 1] - 1)
    if event then
      table.insert(found, {wanted[index], wanted[index + 1], event})
    end
  end
  return found
end
