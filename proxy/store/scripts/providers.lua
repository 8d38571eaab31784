-- What nodes share about a provider: whose turn it is to ask it, and how it does.

-- Take `number` turns in a row, `gap` seconds apart, none of which lies more than `early` seconds back.
-- Made twice, it leaves some turns unused.
function commands.turns(provider, number, gap, early, now)
  local turns = 'pollcast:turn:' .. provider
  now = tonumber(now)
  -- The time to live bounds what a node with a clock that is ahead has written: one second more than its backlog.
  local reserved = math.min(tonumber(call('GET', turns) or 0), now + call('PTTL', turns) / 1000)
  local first = math.max(reserved, now - tonumber(early))
  local free = first + number * gap
  call('SET', turns, string.format('%.6f', free), 'PX', digits(math.ceil((free - now + 1) * 1000)))
  return string.format('%.6f', first)
end

-- For each provider: what a node has seen since it last asked (1 after a success, then the failures that followed it).
-- Answers its failures in a row, and until when it is left alone. Made twice, it counts a failure twice.
function commands.health(limit, pause, memory, now, ...)
  local found, seen = {}, {...}
  for place = 1, #seen, 3 do
    local health, failed = 'pollcast:health:' .. seen[place], tonumber(seen[place + 2])
    if seen[place + 1] == '1' then
      call('DEL', health)
    end
    if failed > 0 then
      local failures = call('HINCRBY', health, 'failures', failed)
      if failures >= tonumber(limit) then
        call('HSET', health, 'until', now + pause)
      end
      call('EXPIRE', health, memory)
    end
    local failures, rests = unpack(call('HMGET', health, 'failures', 'until'))
    table.insert(found, {failures or '0', rests or '0'})
  end
  return found
end
