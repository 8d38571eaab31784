-- Who may change a job, and who is next.

-- Give the account its next turn in a queue: behind its own last one, but not behind what others have waiting.
-- It is start-time fair queueing: the turn that was served last is the queue's virtual time.
local function next_turn(queue, account)
  local turns = 'pollcast:turns:' .. queue
  local served, last = unpack(call('HMGET', turns, '', account))
  local turn = math.max(tonumber(served or 0), tonumber(last or 0)) + 1
  call('HSET', turns, account, digits(turn))
  return turn
end

local function wait(job, queue, turn, since)
  call('ZADD', 'pollcast:waiting:' .. queue, turn, job)
  call('ZADD', 'pollcast:since:' .. queue, since, job)
end

local function line_for(account)
  return 'line:' .. account
end

-- How many jobs stand in the account's line, and how many unfinished ones do not.
local function counted(account)
  local standing = call('ZCARD', 'pollcast:waiting:' .. line_for(account))
  return standing, call('SCARD', 'pollcast:running:' .. account) - standing
end

-- A job has left the account's line, or may go on from it: it is to be looked at, if there is one.
local function moved_in_line(account)
  if call('SISMEMBER', 'pollcast:lines', account) == 1 then
    call('SADD', 'pollcast:moved', account)
  end
end

-- Let the first jobs of the account's line go on to their queues: so many as it may have outside of the line.
-- Answers the account, how many went, and how many still stand in it.
local function advance(account, most, limit, now)
  local line = line_for(account)
  local standing, outside = counted(account)
  local room = math.min(most == '' and limit or most - outside, limit, standing)
  local going = room > 0 and call('ZRANGE', 'pollcast:waiting:' .. line, 0, room - 1) or {}
  for _, job in ipairs(going) do
    local queue = call('HGET', 'pollcast:work:' .. job, 'onward')
    local turn = next_turn(queue, account)
    call('ZREM', 'pollcast:waiting:' .. line, job)
    call('ZREM', 'pollcast:since:' .. line, job)
    call('HSET', 'pollcast:work:' .. job, 'queue', queue, 'turn', digits(turn), 'since', now)
    wait(job, queue, turn, now)
  end
  if #going == standing then
    call('SREM', 'pollcast:lines', account)
  end
  if #going < limit then
    call('SREM', 'pollcast:moved', account)
  end
  return {account, #going, standing - #going}
end

-- Answers what became of each line that was looked at. Made twice, it answers no more what it answered before.
-- The first call of a node (`anew`) looks at all: its limit may be another than the last one's.
function commands.advance(most, limit, now, anew)
  if anew == '1' then
    call('SUNIONSTORE', 'pollcast:moved', 'pollcast:lines')
  end
  local found = {}
  for _, account in ipairs(call('SMEMBERS', 'pollcast:moved')) do
    table.insert(found, advance(account, most, tonumber(limit), now))
  end
  return found
end

-- The jobs at these places of the account's line, as {place, record}.
function commands.standing(account, ...)
  local found = {}
  for _, place in ipairs({...}) do
    local job = call('ZRANGE', 'pollcast:waiting:' .. line_for(account), place - 1, place - 1)[1]
    if job then
      table.insert(found, {place, call('GET', 'pollcast:job:' .. job)})
    end
  end
  return found
end

-- Make `node` the job's holder; whoever held it before is shut out by the new epoch.
local function take(job, node)
  local work = 'pollcast:work:' .. job
  local queue, holder, account = unpack(call('HMGET', work, 'queue', 'node', 'account'))
  if holder then
    call('ZREM', 'pollcast:held:' .. holder, job)
  end
  call('ZREM', 'pollcast:free', job)
  call('ZREM', 'pollcast:waiting:' .. queue, job)
  call('ZREM', 'pollcast:since:' .. queue, job)
  call('SADD', 'pollcast:busy:' .. queue, job)
  call('ZADD', 'pollcast:held:' .. node, 0, job)
  if queue == line_for(account) then
    moved_in_line(account)
  end
  call('HSET', work, 'node', node)
  call('HINCRBY', work, 'epoch', 1)
end

-- The jobs of nodes that have let their leases lapse are added to `found`, up to `limit` of each. `lapsed` names each
-- with the lease that the caller has seen unchanged for too long ('node lease node lease ...').
local function add_lapsed(found, node, lapsed, limit)
  for holder, lease in string.gmatch(lapsed, '(%S+) (%S+)') do
    if holder ~= node and call('HGET', 'pollcast:nodes', holder) == lease then
      local held = call('ZRANGE', 'pollcast:held:' .. holder, 0, limit - 1)
      for _, job in ipairs(held) do
        table.insert(found, job)
      end
      if #held == 0 then
        call('HDEL', 'pollcast:nodes', holder)
      end
    end
  end
end

-- Jobs that were claimed before, by whoever let go of them; and those whose client wants their end.
local function left(node, lapsed, limit)
  if limit <= 0 then
    return {}
  end
  local found = call('ZRANGE', 'pollcast:free', 0, limit - 1)
  add_lapsed(found, node, lapsed, limit)
  table.sort(found)
  while #found > limit do
    table.remove(found)
  end
  return found
end

-- How many jobs wait in each of the queues, then how many stand in lines.
function commands.waiting(...)
  local counted, standing = {}, 0
  for _, queue in ipairs({...}) do
    table.insert(counted, call('ZCARD', 'pollcast:waiting:' .. queue))
  end
  for _, account in ipairs(call('SMEMBERS', 'pollcast:lines')) do
    standing = standing + call('ZCARD', 'pollcast:waiting:' .. line_for(account))
  end
  table.insert(counted, standing)
  return counted
end

local function impatient(queue, before, limit)
  if limit <= 0 then
    return {}
  end
  return call('ZRANGEBYSCORE', 'pollcast:since:' .. queue, '-inf', before, 'LIMIT', 0, limit)
end

local function next_in_turn(queue, room, limit)
  local count = math.min(room - call('SCARD', 'pollcast:busy:' .. queue), limit)
  if count <= 0 then
    return {}
  end
  local jobs, served = {}, 0
  local waiting = call('ZRANGE', 'pollcast:waiting:' .. queue, 0, count - 1, 'WITHSCORES')
  for place = 1, #waiting, 2 do
    table.insert(jobs, waiting[place])
    served = tonumber(waiting[place + 1])
  end
  local turns = 'pollcast:turns:' .. queue
  if served > tonumber(call('HGET', turns, '') or 0) then
    call('HSET', turns, '', digits(served))
  end
  return jobs
end

-- Epoch, time since when it waited for room, and record of each of the jobs that the node took and still holds.
local function taken(node, jobs)
  local claims = {}
  for _, job in ipairs(jobs) do
    local holder, epoch, since, over = unpack(call('HMGET', 'pollcast:work:' .. job, 'node', 'epoch', 'since', 'over'))
    if holder == node and not over then
      table.insert(claims, {epoch, since, call('GET', 'pollcast:job:' .. job)})
    end
  end
  return claims
end

function commands.taken(node, ...)
  return taken(node, {...})
end

-- `once` is this claim's own name: asked again, it answers what it took. The jobs of nodes that `lapsed` names may be
-- taken over. The node's own lease is renewed to `lease` if it takes something. Then come queue, room and patience of
-- each. Answers the claims, then every node and its lease.
function commands.claim(node, once, now, lapsed, lease, limit, ...)
  local took = 'pollcast:took:' .. node
  local last, before = unpack(call('HMGET', took, 'once', 'jobs'))
  if last == once then
    return {taken(node, words(before)), call('HGETALL', 'pollcast:nodes')}
  end
  now, limit = tonumber(now), tonumber(limit)
  local jobs = {}
  local function take_all(found)
    for _, job in ipairs(found) do
      take(job, node)
      table.insert(jobs, job)
    end
  end
  take_all(left(node, lapsed, limit))
  local rooms = {...}
  for place = 1, #rooms, 3 do
    local queue, room, patience = rooms[place], tonumber(rooms[place + 1]), tonumber(rooms[place + 2])
    take_all(impatient(queue, now - patience, limit - #jobs))
    take_all(next_in_turn(queue, room, limit - #jobs))
  end
  if #jobs > 0 then
    call('HSET', 'pollcast:nodes', node, lease)
    call('HSET', took, 'once', once, 'jobs', table.concat(jobs, ' '))
    call('EXPIRE', took, DAY)
  end
  return {taken(node, jobs), call('HGETALL', 'pollcast:nodes')}
end

-- Whether the claim holds: 'lost', 'moved' where the job is not at the event that its holder knows of, or 'held'.
local function fence(job, node, epoch, event)
  local holder, current, at, over =
    unpack(call('HMGET', 'pollcast:work:' .. job, 'node', 'epoch', 'event', 'over'))
  if holder ~= node or current ~= epoch then
    return 'lost'
  elseif event and at ~= event then
    return 'moved'
  end
  return over and 'lost' or 'held'
end

-- What the holder does not know: the record and the newest event.
local function moved(job)
  return {'moved', call('GET', 'pollcast:job:' .. job), call('LINDEX', 'pollcast:events:' .. job, -1)}
end

function commands.held(job, node, epoch)
  return fence(job, node, epoch) == 'held' and call('GET', 'pollcast:job:' .. job)
end

function commands.release(job, node, epoch)
  if fence(job, node, epoch) ~= 'held' then
    return
  end
  local work = 'pollcast:work:' .. job
  local queue, turn, since, sent, account = unpack(call('HMGET', work, 'queue', 'turn', 'since', 'sent', 'account'))
  call('ZREM', 'pollcast:held:' .. node, job)
  call('HDEL', work, 'node')
  if not sent then
    call('SREM', 'pollcast:busy:' .. queue, job)
    wait(job, queue, turn, since)
    if queue == line_for(account) then -- it was taken from there for its end
      call('SADD', 'pollcast:lines', account)
      call('SADD', 'pollcast:moved', account)
    end
  end
  if sent or call('GETRANGE', 'pollcast:job:' .. job, 0, 0) == '1' then
    call('ZADD', 'pollcast:free', 0, job)
  end
end
