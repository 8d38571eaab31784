-- The keys in Redis, and the functions that every script uses.
--
-- All files of this folder are sent to Redis as one script. Its first argument is the name of the command to run.
-- Redis runs a script call atomically: completely or not at all, with no other command in between. The promises of the
-- Store rest on that. Every command is idempotent, because a node repeats a call whose reply was lost.
-- The order of the files is in `connection.py`. A file may use the locals of the files before it.
--
-- All keys begin with `pollcast:`. A, K, J, Q, N, M, I, P and T are ids.
--
--   accounts    names                  hash: name -> account
--               account:A              hash: name, tokens, head (newest position of its feed), floor (see forget_job)
--               ledger:A               stream by time: the movements of A's tokens
--               key:K, digests         hash: account, created_at, revoked_at; hash: digest -> key
--               secrets                hash: name -> value, which all nodes share
--               granted:T              marks a grant as made; expires after a day
--   jobs        job:J                  '1' (its client requested a cancel) or '0', then the record as JSON
--               events:J               list: event n at index n - 1, as 'position mark data'
--               work:J                 hash, until an hour after J's end: holder, queue and event number of J
--               jobs:A                 sorted set by name: all jobs of A, as 'J|status|model|idempotency key'
--               running:A              set: A's unfinished jobs
--               ended                  sorted set by time: all finished jobs
--               once:A                 hash: idempotency key -> 'J time fingerprint'
--               durations:M            list: durations of the newest completed jobs of model M, newest first
--               spent                  sorted set by time: 'A key' of the idempotency keys whose job was deleted
--   claims      waiting:Q, since:Q     sorted sets by turn and by time: the jobs of queue Q that wait for room
--               turns:Q                hash: account -> its last turn in Q; '' -> the turn that was served last
--               busy:Q                 set: the jobs of Q that occupy its room
--               waiting:line:A         the backlog of account A, as the queue 'line:A'; so since:line:A, turns:line:A
--               lines, moved           sets: accounts with a backlog; those whose backlog must be examined
--               free                   sorted set by name: jobs without a holder that may be claimed without room
--               nodes                  hash: node -> a value that each renewal of its lease changes
--               held:N, took:N         sorted set by name: the jobs of node N; hash: its last claim, with its jobs
--   feeds       feed:A                 stream by position: the events of A except streamed text, each as 'J n'
--               changes, told          `changes` is the stream of changes for every node, `told` the newest one's number
--   assets      asset:I, assets        hash; sorted set by age
--               holds:I                set: the unfinished jobs that name asset I
--   providers   turn:P                 time of the next free rate limit slot of provider P
--               trial:P                present while one node tries provider P, whose circuit breaker is open
--               outcomes               stream: outcomes of requests that the nodes reported in the last minute
--   store       schema, ping           version of this layout; time of the newest ping

local call = redis.call
local commands = {}

local DAY = 24 * 3600 -- seconds
local MAX_CHANGES = 50000 -- changes kept, so that a node can be disconnected for a while without losing any
local MAX_CARRIED = 4096 -- bytes of an event that a change carries; nodes read larger events by themselves

-- Return a whole number as text. Lua's numbers are exact to 2^53, but `..` writes only 14 digits.
local function digits(number)
  return string.format('%.0f', number)
end

-- Split a text at blanks.
local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do
    table.insert(found, word)
  end
  return found
end

-- Add a ledger entry and change the balance by it. Nothing else moves tokens, so the balance is the sum of the ledger.
local function move_tokens(account, tokens, cause, job, now)
  if tonumber(tokens) == 0 then
    return
  end
  call('HINCRBY', 'pollcast:account:' .. account, 'tokens', tokens)
  local ledger = 'pollcast:ledger:' .. account
  local at, sequence = math.floor(tonumber(now) * 1000), 0
  local newest = call('XREVRANGE', ledger, '+', '-', 'COUNT', 1)[1]
  if newest then
    local last, taken = string.match(newest[1], '^(%d+)-(%d+)$')
    if at <= tonumber(last) then -- the clock of another node is ahead
      at, sequence = tonumber(last), tonumber(taken) + 1
    end
  end
  local micros = digits(tonumber(now) * 1000000)
  call('XADD', ledger, digits(at) .. '-' .. digits(sequence), 't', tokens, 'c', cause, 'j', job, 'a', micros)
end

-- Send a change to every node and return its number.
local function notify(change, data)
  local number = digits(call('INCR', 'pollcast:told'))
  local entry = {'XADD', 'pollcast:changes', 'MAXLEN', '~', MAX_CHANGES, number .. '-0', 'c', change}
  if data and #data <= MAX_CARRIED then
    table.insert(entry, 'd')
    table.insert(entry, data)
  end
  call(unpack(entry))
  return number
end

-- Append the next event of a job at the next position of its account's feed, and notify every node.
-- The mark is 'f' for the final event, 'd' for a piece of streamed text, and '-' for all others.
local function append_event(account, job, mark, data, now)
  local position = digits(call('HINCRBY', 'pollcast:account:' .. account, 'head', 1))
  local n = call('RPUSH', 'pollcast:events:' .. job, position .. ' ' .. mark .. ' ' .. data)
  if mark ~= 'd' then
    call('XADD', 'pollcast:feed:' .. account, position .. '-0', 'e', job .. ' ' .. n)
  end
  return notify(table.concat({account, job, n, position, mark, now}, ' '), data)
end
