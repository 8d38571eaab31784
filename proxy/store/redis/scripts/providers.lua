-- State of the providers that all nodes share: rate limit slots and the outcomes of requests.
--
-- Uses, from shared.lua: call, commands, digits.

-- Reserve `number` consecutive slots, `gap` seconds apart, and return the time of the first.
-- The first may be up to `early` seconds in the past. A repeated call leaves some slots unused.
function commands.reserve_slots(provider, number, gap, early, now)
  local slots = 'pollcast:turn:' .. provider
  now = tonumber(now)
  -- A node whose clock is ahead may have written a late time. The key's time to live limits its effect, because the
  -- key expires one second after its last reserved slot.
  local reserved = math.min(tonumber(call('GET', slots) or 0), now + call('PTTL', slots) / 1000)
  local first = math.max(reserved, now - tonumber(early))
  local free = first + number * gap
  call('SET', slots, string.format('%.6f', free), 'PX', digits(math.ceil((free - now + 1) * 1000)))
  return string.format('%.6f', first)
end

-- Add the outcomes that a node observed since its last call, if any. Return the outcomes of all nodes that come after
-- the stream id `after`, as {stream id, age in seconds, text}. Entries older than `kept` seconds are removed.
-- A repeated call adds its text twice. Readers recognize the second copy by the number in the text.
function commands.exchange(after, kept, text)
  local outcomes, time = 'pollcast:outcomes', call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if text ~= '' then
    call('XADD', outcomes, 'MINID', '~', digits(now - kept * 1000), '*', 'text', text)
    call('EXPIRE', outcomes, kept)
  end
  local found = {}
  for _, entry in ipairs(call('XRANGE', outcomes, '(' .. after, '+')) do
    local age = math.max(now - tonumber(string.match(entry[1], '^%d+')), 0) / 1000
    table.insert(found, {entry[1], string.format('%.3f', age), entry[2][2]})
  end
  return found
end
