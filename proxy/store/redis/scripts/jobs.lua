-- Jobs and their events, from admission to oblivion.

-- The job that an idempotency key made before: nothing, or {how}, or {'replayed', record}.
local function replayed(account, once, fingerprint)
  local made = once ~= '' and call('HGET', 'pollcast:once:' .. account, once)
  if not made then
    return
  end
  local job, _, start = string.match(made, '^(%S+) (%S+) ()')
  if string.sub(made, start) ~= fingerprint then
    return {'conflict'}
  end
  local record = call('GET', 'pollcast:job:' .. job)
  return record and {'replayed', record} or {'deleted'}
end

function commands.replay(account, once, fingerprint)
  return replayed(account, once, fingerprint) or {'new'}
end

local function listed(job, status, model, once)
  return table.concat({job, status, model, once}, '|')
end

-- The job's line in its account's list; nothing where it is none of the account's.
local function line_of(account, job)
  local line = call('ZRANGEBYLEX', 'pollcast:jobs:' .. account, '[' .. job .. '|', '(' .. job .. '}', 'LIMIT', 0, 1)[1]
  if line then
    return line, string.match(line, '^[^|]*|([^|]*)|([^|]*)|(.*)$')
  end
end

-- Have the account's list say the job's status.
local function list_as(account, job, status)
  local line, was, model, once = line_of(account, job)
  if was ~= status then
    call('ZREM', 'pollcast:jobs:' .. account, line)
    call('ZADD', 'pollcast:jobs:' .. account, 0, listed(job, status, model, once))
  end
end

-- Where an order is to wait, for room or first in its account's line; nothing where that is full, and its length.
local function queue_for(account, queue, most, line)
  if most == '' then
    return queue
  end
  local standing, outside = counted(account)
  if standing == 0 and outside < tonumber(most) then
    return queue
  end
  return standing < tonumber(line) and line_for(account), standing
end

-- The job's place in its account's line; 0 where it stands in none.
local function place_of(account, job)
  return (call('ZRANK', 'pollcast:waiting:' .. line_for(account), job) or -1) + 1
end

function commands.admit(
  job, account, price, onward, assets, once, fingerprint, status, model, record, data, now, most, line)
  if call('EXISTS', 'pollcast:job:' .. job) == 1 then
    return {'done', call('GET', 'pollcast:told'), place_of(account, job)}
  end
  local earlier = replayed(account, once, fingerprint)
  if earlier then
    return earlier
  end
  local queue, standing = queue_for(account, onward, most, line)
  if not queue then
    return {'full', standing}
  end
  for _, asset in ipairs(words(assets)) do
    if call('HGET', 'pollcast:asset:' .. asset, 'account') ~= account then
      return {'no asset', asset}
    end
  end
  local balance = call('HGET', 'pollcast:account:' .. account, 'tokens')
  if not balance then
    return {'no account'}
  elseif tonumber(balance) < tonumber(price) then
    return {'short', balance}
  end
  enter(account, '-' .. price, 'charge', job, now)
  call('SET', 'pollcast:job:' .. job, '0' .. record)
  local turn = next_turn(queue, account)
  wait(job, queue, turn, now)
  local work = {'account', account, 'queue', queue, 'turn', digits(turn), 'since', now, 'epoch', 0, 'event', 1, 'shown', 1}
  call('HSET', 'pollcast:work:' .. job, 'assets', assets, 'onward', onward, unpack(work))
  if queue ~= onward then
    call('SADD', 'pollcast:lines', account)
  end
  call('SADD', 'pollcast:running:' .. account, job)
  call('ZADD', 'pollcast:jobs:' .. account, 0, listed(job, status, model, once))
  for _, asset in ipairs(words(assets)) do
    call('SADD', 'pollcast:holds:' .. asset, job)
  end
  if once ~= '' then
    call('HSET', 'pollcast:once:' .. account, once, job .. ' ' .. now .. ' ' .. fingerprint)
  end
  return {'done', publish(account, job, '-', data, now), place_of(account, job)}
end

-- Write the record of a job as it is now; what its client wants stays.
local function update(job, record)
  call('SET', 'pollcast:job:' .. job, call('GETRANGE', 'pollcast:job:' .. job, 0, 0) .. record)
end

-- Record the event that tells a job its place in its account's line; nothing where it does not stand there (any more),
-- or is not at the event that was known.
function commands.tell_place(job, event, place, status, record, data, now)
  local work = 'pollcast:work:' .. job
  local account, at = unpack(call('HMGET', work, 'account', 'event'))
  if not account or at ~= event or place_of(account, job) ~= tonumber(place) then
    return
  end
  update(job, record)
  call('HSET', work, 'event', event + 1, 'shown', event + 1)
  list_as(account, job, status)
  return publish(account, job, '-', data, now)
end

-- Note whether the order is about to be `sent` ('1') or surely was not ('').
function commands.intend(job, node, epoch, event, sent, record)
  local state = fence(job, node, epoch, event)
  if state == 'moved' then
    return moved(job)
  elseif state == 'held' then
    update(job, record)
    if sent == '' then
      call('HDEL', 'pollcast:work:' .. job, 'sent')
    else
      call('HSET', 'pollcast:work:' .. job, 'sent', sent)
    end
  end
  return {state, call('GET', 'pollcast:job:' .. job)}
end

-- The work on a job is over; for an hour it is known by whom, should the answer have been lost.
local function finish(job, account, node, now)
  local work = 'pollcast:work:' .. job
  local queue, assets = unpack(call('HMGET', work, 'queue', 'assets'))
  call('ZREM', 'pollcast:held:' .. node, job)
  call('SREM', 'pollcast:busy:' .. queue, job)
  call('SREM', 'pollcast:running:' .. account, job)
  moved_in_line(account)
  for _, asset in ipairs(words(assets)) do
    call('SREM', 'pollcast:holds:' .. asset, job)
  end
  call('ZADD', 'pollcast:ended', now, job)
  call('HSET', work, 'over', 1)
  call('EXPIRE', work, 3600)
end

function commands.append(job, node, epoch, event, mark, refund, status, record, data, now, completed, took)
  local state = fence(job, node, epoch, event)
  if state == 'moved' then
    return moved(job)
  elseif state == 'lost' then
    return {state}
  end
  local work = 'pollcast:work:' .. job
  local account = call('HGET', work, 'account')
  update(job, record)
  call('HINCRBY', work, 'event', 1)
  if mark ~= 'd' then
    call('HSET', work, 'shown', event + 1)
  end
  list_as(account, job, status)
  if mark == 'f' then
    enter(account, refund, 'refund', job, now)
    finish(job, account, node, now)
  end
  if completed ~= '' and took ~= '' then
    call('LPUSH', 'pollcast:durations:' .. completed, took)
    call('LTRIM', 'pollcast:durations:' .. completed, 0, 499)  -- as many as are ever asked for
  end
  return {state, call('GETRANGE', 'pollcast:job:' .. job, 0, 0), publish(account, job, mark, data, now)}
end

function commands.request_cancel(account, job)
  if not line_of(account, job) then
    return {'none'}
  end
  local told = '0'
  if call('SISMEMBER', 'pollcast:running:' .. account, job) == 1 then
    local queue, event = unpack(call('HMGET', 'pollcast:work:' .. job, 'queue', 'event'))
    call('SETRANGE', 'pollcast:job:' .. job, 0, '1')
    if call('ZSCORE', 'pollcast:waiting:' .. queue, job) then
      call('ZADD', 'pollcast:free', 0, job)
    end
    told = tell(table.concat({account, job, event}, ' '))
  end
  return {'done', told, call('GET', 'pollcast:job:' .. job)}
end

-- The records of up to `limit` jobs, newest first, after the line at which the list went on, or '' at its end.
-- It ends early with the record that goes beyond `most` bytes, unless that is the first of all (`had` were found before).
function commands.jobs(account, before, limit, most, had, status, model)
  local highest = before == '' and '+' or '(' .. before
  local lines = call('ZREVRANGEBYLEX', 'pollcast:jobs:' .. account, highest, '-', 'LIMIT', 0, 1000)
  local found, rest, size = {''}, '', 0
  for _, line in ipairs(lines) do
    local job, has, of = string.match(line, '^([^|]*)|([^|]*)|([^|]*)|')
    rest = job
    if (status == '' or status == has) and (model == '' or model == of) then
      local record = call('GET', 'pollcast:job:' .. job)
      table.insert(found, record)
      size = size + #record
      if #found > tonumber(limit) or (size > tonumber(most) and #found + had > 2) then
        break
      end
    end
  end
  if rest ~= '' and #call('ZREVRANGEBYLEX', 'pollcast:jobs:' .. account, '(' .. rest, '-', 'LIMIT', 0, 1) > 0 then
    found[1] = rest
  end
  return found
end

-- Delete a finished job with its events; cursors at or below them are told to begin anew, by the floor of the feed.
local function forget(account, job, line, once)
  local position = string.match(call('LINDEX', 'pollcast:events:' .. job, -1), '^%d+')
  -- This comes first: a Redis whose memory is full lets a script write that begins with a deletion.
  call('UNLINK', 'pollcast:job:' .. job, 'pollcast:events:' .. job, 'pollcast:work:' .. job)
  local feed = 'pollcast:account:' .. account
  if tonumber(position) > tonumber(call('HGET', feed, 'floor')) then
    call('HSET', feed, 'floor', position)
    call('XTRIM', 'pollcast:feed:' .. account, 'MINID', '~', digits(tonumber(position) + 1) .. '-0')
  end
  call('ZREM', 'pollcast:jobs:' .. account, line)
  call('ZREM', 'pollcast:ended', job)
  tell(table.concat({account, job, 0}, ' '))
  local made = once ~= '' and call('HGET', 'pollcast:once:' .. account, once)
  if made then
    call('ZADD', 'pollcast:spent', string.match(made, '^%S+ (%S+)'), account .. ' ' .. once)
  end
end

-- Answers 'running', or 'gone': now, or before.
function commands.delete_job(account, job)
  local line, _, _, once = line_of(account, job)
  if line then
    if call('SISMEMBER', 'pollcast:running:' .. account, job) == 1 then
      return 'running'
    end
    forget(account, job, line, once)
  end
  return 'gone'
end
