-- What nodes share about a provider: whose turn it is to ask it, and the outcomes of requests.

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

-- Add the outcomes that a node has seen since its last call, if any, and answer what all nodes have told after a place:
-- the place, the age in seconds, and the text. Made twice, it adds a text twice, which readers know by its number.
function commands.exchange(after, kept, text)
  local told, time = 'pollcast:outcomes', call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if text ~= '' then
    call('XADD', told, 'MINID', '~', digits(now - kept * 1000), '*', 'text', text)
    call('EXPIRE', told, kept)
  end
  local found = {}
  for _, entry in ipairs(call('XRANGE', told, '(' .. after, '+')) do
    local age = math.max(now - tonumber(string.match(entry[1], '^%d+')), 0) / 1000
    table.insert(found, {entry[1], string.format('%.3f', age), entry[2][2]})
  end
  return found
end
