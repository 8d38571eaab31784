-- Claims: which jobs wait, which node may take them, and which node holds a job.
--
-- Uses, from shared.lua: call, commands, digits, words, DAY.
--
-- A turn is a number in start-time fair queueing: a queue serves its jobs in the order of their turns.
-- An account's backlog is the queue 'line:A'. No node takes jobs from it, except those with a requested cancel.

-- Give the account its next turn in a queue: after its own last one, and not before the turn that was served last.
-- The turn that was served last is the queue's virtual time.
local function assign_turn(queue, account)
  local turns = 'pollcast:turns:' .. queue
  local served, last = unpack(call('HMGET', turns, '', account))
  local turn = math.max(tonumber(served or 0), tonumber(last or 0)) + 1
  call('HSET', turns, account, digits(turn))
  return turn
end

local function enqueue(job, queue, turn, since)
  call('ZADD', 'pollcast:waiting:' .. queue, turn, job)
  call('ZADD', 'pollcast:since:' .. queue, since, job)
end

local function dequeue(job, queue)
  call('ZREM', 'pollcast:waiting:' .. queue, job)
  call('ZREM', 'pollcast:since:' .. queue, job)
end

local function backlog_queue(account)
  return 'line:' .. account
end

-- Return the number of jobs in the account's backlog, and of its unfinished jobs outside of it.
local function count_jobs(account)
  local waiting = call('ZCARD', 'pollcast:waiting:' .. backlog_queue(account))
  return waiting, call('SCARD', 'pollcast:running:' .. account) - waiting
end

-- Have the next release examine the account's backlog, if it has one: a job left it, or there may be room for one.
local function mark_backlog(account)
  if call('SISMEMBER', 'pollcast:lines', account) == 1 then
    call('SADD', 'pollcast:moved', account)
  end
end

-- Move the oldest jobs of the account's backlog to their queues, until `max_jobs` unfinished jobs are outside of it.
-- Return the account, how many jobs moved, and how many stay.
local function release_account(account, max_jobs, limit, now)
  local backlog = backlog_queue(account)
  local waiting, outside = count_jobs(account)
  local room = math.min(max_jobs == '' and limit or max_jobs - outside, limit, waiting)
  local released = room > 0 and call('ZRANGE', 'pollcast:waiting:' .. backlog, 0, room - 1) or {}
  for _, job in ipairs(released) do
    local queue = call('HGET', 'pollcast:work:' .. job, 'onward')
    local turn = assign_turn(queue, account)
    dequeue(job, backlog)
    call('HSET', 'pollcast:work:' .. job, 'queue', queue, 'turn', digits(turn), 'since', now)
    enqueue(job, queue, turn, now)
  end
  if #released == waiting then
    call('SREM', 'pollcast:lines', account)
  end
  if #released < limit then
    call('SREM', 'pollcast:moved', account)
  end
  return {account, #released, waiting - #released}
end

-- Release jobs from the backlogs that must be examined. Return an entry per backlog, as `release_account` does.
-- With `all` = '1' examine every backlog: a node does so in its first call, because its limit may differ from the last.
-- A repeated call does not return the entries of the first one again.
function commands.release_backlog(max_jobs, limit, now, all)
  if all == '1' then
    call('SUNIONSTORE', 'pollcast:moved', 'pollcast:lines')
  end
  local found = {}
  for _, account in ipairs(call('SMEMBERS', 'pollcast:moved')) do
    table.insert(found, release_account(account, max_jobs, tonumber(limit), now))
  end
  return found
end

-- Return the jobs at these positions of the account's backlog, as {position, record}.
function commands.backlog_jobs(account, ...)
  local found = {}
  for _, position in ipairs({...}) do
    local job = call('ZRANGE', 'pollcast:waiting:' .. backlog_queue(account), position - 1, position - 1)[1]
    if job then
      table.insert(found, {position, call('GET', 'pollcast:job:' .. job)})
    end
  end
  return found
end

-- Make `node` the job's holder. The new epoch shuts out the holder before it.
local function assign(job, node)
  local work = 'pollcast:work:' .. job
  local queue, holder, account = unpack(call('HMGET', work, 'queue', 'node', 'account'))
  if holder then
    call('ZREM', 'pollcast:held:' .. holder, job)
  end
  call('ZREM', 'pollcast:free', job)
  dequeue(job, queue)
  call('SADD', 'pollcast:busy:' .. queue, job)
  call('ZADD', 'pollcast:held:' .. node, 0, job)
  if queue == backlog_queue(account) then
    mark_backlog(account)
  end
  call('HSET', work, 'node', node)
  call('HINCRBY', work, 'epoch', 1)
end

-- Add up to `limit` jobs of each node whose lease has expired. `expired` is 'node lease node lease ...': the caller
-- has seen each lease unchanged for too long. A node that has renewed its lease since then is left alone.
local function add_expired(found, node, expired, limit)
  for holder, lease in string.gmatch(expired, '(%S+) (%S+)') do
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

-- Return jobs that need no room, oldest first: released ones, those of dead nodes, and those with a requested cancel.
local function jobs_without_room(node, expired, limit)
  if limit <= 0 then
    return {}
  end
  local found = call('ZRANGE', 'pollcast:free', 0, limit - 1)
  add_expired(found, node, expired, limit)
  table.sort(found)
  while #found > limit do
    table.remove(found)
  end
  return found
end

-- Return the number of waiting jobs of each queue, then the number of jobs in all backlogs.
function commands.waiting(...)
  local counts, in_backlogs = {}, 0
  for _, queue in ipairs({...}) do
    table.insert(counts, call('ZCARD', 'pollcast:waiting:' .. queue))
  end
  for _, account in ipairs(call('SMEMBERS', 'pollcast:lines')) do
    in_backlogs = in_backlogs + call('ZCARD', 'pollcast:waiting:' .. backlog_queue(account))
  end
  table.insert(counts, in_backlogs)
  return counts
end

-- Return the jobs of a queue that began to wait before `before`. They are taken even without room.
local function overdue_jobs(queue, before, limit)
  if limit <= 0 then
    return {}
  end
  return call('ZRANGEBYSCORE', 'pollcast:since:' .. queue, '-inf', before, 'LIMIT', 0, limit)
end

-- Return the next jobs of a queue that fit into its room, in the order of their turns, and advance its virtual time.
local function jobs_in_turn(queue, room, limit)
  local count = math.min(room - call('SCARD', 'pollcast:busy:' .. queue), limit)
  if count <= 0 then
    return {}
  end
  local jobs, served = {}, 0
  local waiting = call('ZRANGE', 'pollcast:waiting:' .. queue, 0, count - 1, 'WITHSCORES')
  for index = 1, #waiting, 2 do
    table.insert(jobs, waiting[index])
    served = tonumber(waiting[index + 1])
  end
  local turns = 'pollcast:turns:' .. queue
  if served > tonumber(call('HGET', turns, '') or 0) then
    call('HSET', turns, '', digits(served))
  end
  return jobs
end

-- Return {epoch, time since which it waited for room, version, record} of those of the jobs that the node holds.
local function read_claims(node, jobs)
  local claims = {}
  for _, job in ipairs(jobs) do
    local work = 'pollcast:work:' .. job
    local holder, epoch, since, version, over =
      unpack(call('HMGET', work, 'node', 'epoch', 'since', 'version', 'over'))
    if holder == node and not over then
      table.insert(claims, {epoch, since, version or '', call('GET', 'pollcast:job:' .. job)})
    end
  end
  return claims
end

function commands.read_claims(node, ...)
  return read_claims(node, {...})
end

-- Claim up to `limit` jobs. Return the claims, then every node with its lease.
-- `once` is the id of this claim: a repeated call returns the jobs that the first one took. The jobs of nodes in
-- `expired` may be taken over. If the node takes a job, its own lease becomes `lease`. The remaining arguments are
-- queue, room and longest wait in seconds of each queue.
function commands.claim(node, once, now, expired, lease, limit, ...)
  local took = 'pollcast:took:' .. node
  local last, before = unpack(call('HMGET', took, 'once', 'jobs'))
  if last == once then
    return {read_claims(node, words(before)), call('HGETALL', 'pollcast:nodes')}
  end
  now, limit = tonumber(now), tonumber(limit)
  local jobs = {}
  local function assign_all(found)
    for _, job in ipairs(found) do
      assign(job, node)
      table.insert(jobs, job)
    end
  end
  assign_all(jobs_without_room(node, expired, limit))
  local rooms = {...}
  for index = 1, #rooms, 3 do
    local queue, room, max_wait = rooms[index], tonumber(rooms[index + 1]), tonumber(rooms[index + 2])
    assign_all(overdue_jobs(queue, now - max_wait, limit - #jobs))
    assign_all(jobs_in_turn(queue, room, limit - #jobs))
  end
  if #jobs > 0 then
    call('HSET', 'pollcast:nodes', node, lease)
    call('HSET', took, 'once', once, 'jobs', table.concat(jobs, ' '))
    call('EXPIRE', took, DAY)
  end
  return {read_claims(node, jobs), call('HGETALL', 'pollcast:nodes')}
end

-- Check a claim. Return 'held', 'lost', or 'moved' if the job is not at the event number that its holder expects.
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

-- Return the record and the newest event of a job that is not where its holder expects it.
local function newer_state(job)
  return {'moved', call('GET', 'pollcast:job:' .. job), call('LINDEX', 'pollcast:events:' .. job, -1)}
end

-- Return the job's record if the claim is held, else false.
function commands.fetch_held(job, node, epoch)
  return fence(job, node, epoch) == 'held' and call('GET', 'pollcast:job:' .. job)
end

-- Give a job back. One whose order was never announced as sent waits again, with its old turn.
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
    enqueue(job, queue, turn, since)
    if queue == backlog_queue(account) then -- it was claimed in the backlog, because its client requested a cancel
      call('SADD', 'pollcast:lines', account)
      call('SADD', 'pollcast:moved', account)
    end
  end
  if sent or call('GETRANGE', 'pollcast:job:' .. job, 0, 0) == '1' then
    call('ZADD', 'pollcast:free', 0, job)
  end
end
