-- Jobs and their events, from admission to deletion.
--
-- Uses, from shared.lua: call, commands, digits, words, move_tokens, notify, append_event.
-- From claims.lua: assign_turn, enqueue, backlog_queue, count_jobs, mark_backlog, fence, newer_state.

-- Find the job that an idempotency key created before. Return nil if the key is new, {'replayed', record},
-- {'conflict'} if it was used for another order, or {'deleted'}.
local function find_replay(account, once, fingerprint)
  local created = once ~= '' and call('HGET', 'pollcast:once:' .. account, once)
  if not created then
    return
  end
  local job, _, start = string.match(created, '^(%S+) (%S+) ()')
  if string.sub(created, start) ~= fingerprint then
    return {'conflict'}
  end
  local record = call('GET', 'pollcast:job:' .. job)
  return record and {'replayed', record} or {'deleted'}
end

function commands.replay(account, once, fingerprint)
  return find_replay(account, once, fingerprint) or {'new'}
end

local function list_entry(job, status, model, once)
  return table.concat({job, status, model, once}, '|')
end

-- Return the job's entry in its account's list, then its status, model and idempotency key.
-- Return nil if the account does not have the job.
local function find_list_entry(account, job)
  local entry = call('ZRANGEBYLEX', 'pollcast:jobs:' .. account, '[' .. job .. '|', '(' .. job .. '}', 'LIMIT', 0, 1)[1]
  if entry then
    return entry, string.match(entry, '^[^|]*|([^|]*)|([^|]*)|(.*)$')
  end
end

-- Update the status in the job's list entry.
local function set_listed_status(account, job, status)
  local entry, before, model, once = find_list_entry(account, job)
  if before ~= status then
    call('ZREM', 'pollcast:jobs:' .. account, entry)
    call('ZADD', 'pollcast:jobs:' .. account, 0, list_entry(job, status, model, once))
  end
end

-- Choose where a new job waits: in `queue`, or in its account's backlog. If that is full, return false and its length.
local function choose_queue(account, queue, max_jobs, max_backlog)
  if max_jobs == '' then
    return queue
  end
  local waiting, outside = count_jobs(account)
  if waiting == 0 and outside < tonumber(max_jobs) then
    return queue
  end
  return waiting < tonumber(max_backlog) and backlog_queue(account), waiting
end

-- Return the job's position in its account's backlog, from 1. Return 0 if it is not in it.
local function backlog_position(account, job)
  return (call('ZRANK', 'pollcast:waiting:' .. backlog_queue(account), job) or -1) + 1
end

-- Record a new job with its charge and its event 1. Return {'done', number of the newest change, backlog position},
-- or the reason why there is no new job: a reply of `find_replay`, {'full', length of the backlog},
-- {'no asset', asset}, {'no account'} or {'short', balance}. `onward` is the queue of the job's provider.
function commands.admit(
  job, account, price, onward, assets, once, fingerprint, status, model, record, data, now, max_jobs, max_backlog, version)
  if call('EXISTS', 'pollcast:job:' .. job) == 1 then
    return {'done', call('GET', 'pollcast:told'), backlog_position(account, job)}
  end
  local earlier = find_replay(account, once, fingerprint)
  if earlier then
    return earlier
  end
  local queue, waiting = choose_queue(account, onward, max_jobs, max_backlog)
  if not queue then
    return {'full', waiting}
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
  move_tokens(account, '-' .. price, 'charge', job, now)
  call('SET', 'pollcast:job:' .. job, '0' .. record)
  local turn = assign_turn(queue, account)
  enqueue(job, queue, turn, now)
  local work =
    {'account', account, 'queue', queue, 'turn', digits(turn), 'since', now, 'epoch', 0, 'event', 1, 'shown', 1}
  call('HSET', 'pollcast:work:' .. job, 'assets', assets, 'onward', onward, 'version', version, unpack(work))
  if queue ~= onward then
    call('SADD', 'pollcast:lines', account)
  end
  call('SADD', 'pollcast:running:' .. account, job)
  call('ZADD', 'pollcast:jobs:' .. account, 0, list_entry(job, status, model, once))
  for _, asset in ipairs(words(assets)) do
    call('SADD', 'pollcast:holds:' .. asset, job)
  end
  if once ~= '' then
    call('HSET', 'pollcast:once:' .. account, once, job .. ' ' .. now .. ' ' .. fingerprint)
  end
  return {'done', append_event(account, job, '-', data, now), backlog_position(account, job)}
end

-- Replace the job's record and keep its cancel flag.
local function write_record(job, record)
  call('SET', 'pollcast:job:' .. job, call('GETRANGE', 'pollcast:job:' .. job, 0, 0) .. record)
end

-- Record the event with the job's position in its account's backlog. Return the number of the change.
-- Return nil if the job is no longer at that position, or not at the event number that the caller expects.
function commands.record_position(job, event, position, status, record, data, now)
  local work = 'pollcast:work:' .. job
  local account, at = unpack(call('HMGET', work, 'account', 'event'))
  if not account or at ~= event or backlog_position(account, job) ~= tonumber(position) then
    return
  end
  write_record(job, record)
  call('HSET', work, 'event', event + 1, 'shown', event + 1)
  set_listed_status(account, job, status)
  return append_event(account, job, '-', data, now)
end

-- Record that the order is about to be sent (`sent` = '1'), or that the provider certainly did not take it ('').
-- `request` is the request of the intent, or ''. It is not part of the record, because the versions before refuse a
-- record with a field that they do not know.
function commands.record_intent(job, node, epoch, event, sent, record, request)
  local state = fence(job, node, epoch, event)
  if state == 'moved' then
    return newer_state(job)
  elseif state == 'held' then
    write_record(job, record)
    if sent == '' then
      call('HDEL', 'pollcast:work:' .. job, 'sent')
    else
      call('HSET', 'pollcast:work:' .. job, 'sent', sent)
    end
    if request == '' then
      call('HDEL', 'pollcast:work:' .. job, 'request')
    else
      call('HSET', 'pollcast:work:' .. job, 'request', request)
    end
  end
  return {state, call('GET', 'pollcast:job:' .. job)}
end

-- Return {the request of the job's intent, or ''} if the claim is held, else false.
function commands.intended_request(job, node, epoch)
  return fence(job, node, epoch) == 'held' and {call('HGET', 'pollcast:work:' .. job, 'request') or ''}
end

-- End the work on a job. Its `work:J` stays for an hour, so that a holder whose reply was lost can repeat the call.
local function finish(job, account, node, now)
  local work = 'pollcast:work:' .. job
  local queue, assets = unpack(call('HMGET', work, 'queue', 'assets'))
  call('ZREM', 'pollcast:held:' .. node, job)
  call('SREM', 'pollcast:busy:' .. queue, job)
  call('SREM', 'pollcast:running:' .. account, job)
  mark_backlog(account)
  for _, asset in ipairs(words(assets)) do
    call('SREM', 'pollcast:holds:' .. asset, job)
  end
  call('ZADD', 'pollcast:ended', now, job)
  call('HSET', work, 'over', 1)
  call('HDEL', work, 'request')
  call('EXPIRE', work, 3600)
end

-- Append the job's next event. Return {'held', cancel flag, number of the change}, {'lost'} or a `newer_state`.
-- `completed` is the model of a completed job and `took` its duration in seconds, else ''.
function commands.append(job, node, epoch, event, mark, refund, status, record, data, now, completed, took)
  local state = fence(job, node, epoch, event)
  if state == 'moved' then
    return newer_state(job)
  elseif state == 'lost' then
    return {state}
  end
  local work = 'pollcast:work:' .. job
  local account = call('HGET', work, 'account')
  write_record(job, record)
  call('HINCRBY', work, 'event', 1)
  if mark ~= 'd' then
    call('HSET', work, 'shown', event + 1)
  end
  set_listed_status(account, job, status)
  if mark == 'f' then
    move_tokens(account, refund, 'refund', job, now)
    finish(job, account, node, now)
  end
  if completed ~= '' and took ~= '' then
    call('LPUSH', 'pollcast:durations:' .. completed, took)
    call('LTRIM', 'pollcast:durations:' .. completed, 0, 499) -- the estimate of the remaining time reads at most 500
  end
  return {state, call('GETRANGE', 'pollcast:job:' .. job, 0, 0), append_event(account, job, mark, data, now)}
end

-- Set the cancel flag of an unfinished job. Return {'none'}, or {'done', number of the change or '0', record}.
function commands.request_cancel(account, job)
  if not find_list_entry(account, job) then
    return {'none'}
  end
  local change = '0'
  if call('SISMEMBER', 'pollcast:running:' .. account, job) == 1 then
    local queue, event = unpack(call('HMGET', 'pollcast:work:' .. job, 'queue', 'event'))
    call('SETRANGE', 'pollcast:job:' .. job, 0, '1')
    if call('ZSCORE', 'pollcast:waiting:' .. queue, job) then
      call('ZADD', 'pollcast:free', 0, job)
    end
    change = notify(table.concat({account, job, event}, ' '))
  end
  return {'done', change, call('GET', 'pollcast:job:' .. job)}
end

-- Return the `before` of the next call, or '' at the end of the list, then up to `limit` records, newest first.
-- A call reads at most 1,000 list entries. It ends early after the record that exceeds `max_bytes`, unless that is the
-- first record of the page. `had` is the number of records that earlier calls returned for the same page.
function commands.jobs(account, before, limit, max_bytes, had, status, model)
  local highest = before == '' and '+' or '(' .. before
  local entries = call('ZREVRANGEBYLEX', 'pollcast:jobs:' .. account, highest, '-', 'LIMIT', 0, 1000)
  local found, last, size = {''}, '', 0
  for _, entry in ipairs(entries) do
    local job, its_status, its_model = string.match(entry, '^([^|]*)|([^|]*)|([^|]*)|')
    last = job
    if (status == '' or status == its_status) and (model == '' or model == its_model) then
      local record = call('GET', 'pollcast:job:' .. job)
      table.insert(found, record)
      size = size + #record
      if #found > tonumber(limit) or (size > tonumber(max_bytes) and #found + had > 2) then
        break
      end
    end
  end
  if last ~= '' and #call('ZREVRANGEBYLEX', 'pollcast:jobs:' .. account, '(' .. last, '-', 'LIMIT', 0, 1) > 0 then
    found[1] = last
  end
  return found
end

-- Delete a finished job with its events. The feed's floor rises to them, so cursors below it get a `reset`.
local function forget_job(account, job, entry, once)
  local position = string.match(call('LINDEX', 'pollcast:events:' .. job, -1), '^%d+')
  -- The deletion comes first: a Redis whose memory is full refuses a script whose first write is not a deletion.
  call('UNLINK', 'pollcast:job:' .. job, 'pollcast:events:' .. job, 'pollcast:work:' .. job)
  local feed = 'pollcast:account:' .. account
  if tonumber(position) > tonumber(call('HGET', feed, 'floor')) then
    call('HSET', feed, 'floor', position)
    call('XTRIM', 'pollcast:feed:' .. account, 'MINID', '~', digits(tonumber(position) + 1) .. '-0')
  end
  call('ZREM', 'pollcast:jobs:' .. account, entry)
  call('ZREM', 'pollcast:ended', job)
  notify(table.concat({account, job, 0}, ' '))
  local created = once ~= '' and call('HGET', 'pollcast:once:' .. account, once)
  if created then
    call('ZADD', 'pollcast:spent', string.match(created, '^%S+ (%S+)'), account .. ' ' .. once)
  end
end

-- Return 'running', or 'gone' if the job is deleted now or was deleted before.
function commands.delete_job(account, job)
  local entry, _, _, once = find_list_entry(account, job)
  if entry then
    if call('SISMEMBER', 'pollcast:running:' .. account, job) == 1 then
      return 'running'
    end
    forget_job(account, job, entry, once)
  end
  return 'gone'
end
