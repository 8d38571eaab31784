-- One library: these files are sent to Redis as one script, whose first argument names the function that is called.
-- Redis runs a call whole, or not at all, with nothing of anyone else's in between; that is what a promise of the
-- Store rests on here. A call may be made twice, because the answer to the first was lost: the second changes nothing.
--
--   accounts    names                  hash: name -> account
--               account:A              hash: name, tokens, head (newest position of its feed), floor (see forget)
--               ledger:A               stream: what moved A's tokens, by time
--               key:K, digests         hash: account, created_at, revoked_at; hash: digest -> key
--               granted:T              a grant that was made, kept a day
--   jobs        job:J                  '1' (its client wants its end) or '0', then the record as JSON
--               events:J               list: event n at index n - 1, as 'position mark data'
--               work:J                 hash, while J is unfinished and an hour longer: who holds it, and where it stands
--               jobs:A                 sorted set by name: all jobs of A, as 'J|status|model|idempotency key'
--               running:A              set: A's unfinished jobs
--               ended                  sorted set by time: all finished jobs
--               once:A                 hash: idempotency key -> 'J time fingerprint'
--               durations:M            list: how long the newest completed jobs of model M took, newest first
--               spent                  sorted set by time: 'A key' of the idempotency keys whose job is forgotten
--   claims      waiting:Q, since:Q     sorted sets by turn and by time: the jobs of queue Q that wait for room
--               turns:Q                hash: account -> its last turn in Q; '' -> the turn that was served last
--               busy:Q                 set: the jobs of Q that take up room
--               lines, moved           sets: the accounts whose waiting:line:A holds jobs; those whose line is to be looked at
--               free                   sorted set by name: the jobs that nobody holds and that need not wait for room
--               nodes                  hash: node -> when its leases lapse, which each of its claims prolongs
--               held:N, took:N         sorted set by name: the jobs that node N holds; its last claim and what it took
--   feeds       feed:A                 stream: the events of A but streamed text, each as 'J n', under its position
--               changes, told          stream: what is told to every node; the number of the newest
--   assets      asset:I, assets        hash; sorted set by age
--               holds:I                set: the unfinished jobs that name asset I
--   providers   turn:P                 when provider P may be asked next
--               trial:P                present while a node tries P, whose circuit breaker is open
--               outcomes               stream: the outcomes of requests that nodes have told in the last minute

local call = redis.call
local commands = {}

local DAY = 24 * 3600
local KEPT = 50000 -- changes, for nodes that were away for a moment
local CARRIED = 4096 -- bytes of an event that a change carries along; larger ones are read by who needs them

-- Lua's numbers are exact to 2^53, but `..` would write 14 digits of them.
local function digits(number)
  return string.format('%.0f', number)
end

local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do
    table.insert(found, word)
  end
  return found
end

-- Write the ledger and move the balance, which is the sum of it. Nothing else moves tokens.
local function enter(account, tokens, cause, job, now)
  if tonumber(tokens) == 0 then
    return
  end
  call('HINCRBY', 'pollcast:account:' .. account, 'tokens', tokens)
  local ledger = 'pollcast:ledger:' .. account
  local at, place = math.floor(tonumber(now) * 1000), 0
  local newest = call('XREVRANGE', ledger, '+', '-', 'COUNT', 1)[1]
  if newest then
    local last, taken = string.match(newest[1], '^(%d+)-(%d+)$')
    if at <= tonumber(last) then -- another node's clock is ahead
      at, place = tonumber(last), tonumber(taken) + 1
    end
  end
  local micros = digits(tonumber(now) * 1000000)
  call('XADD', ledger, digits(at) .. '-' .. digits(place), 't', tokens, 'c', cause, 'j', job, 'a', micros)
end

-- Tell every node; returns the number of what was told.
local function tell(what, data)
  local number = digits(call('INCR', 'pollcast:told'))
  local change = {'XADD', 'pollcast:changes', 'MAXLEN', '~', KEPT, number .. '-0', 'c', what}
  if data and #data <= CARRIED then
    table.insert(change, 'd')
    table.insert(change, data)
  end
  call(unpack(change))
  return number
end

-- Keep the event of a job that comes next, at the next position of its account's feed, and tell it.
-- Its mark is 'f' on the final one, 'd' on a piece of streamed text, else '-'.
local function publish(account, job, mark, data, now)
  local position = digits(call('HINCRBY', 'pollcast:account:' .. account, 'head', 1))
  local n = call('RPUSH', 'pollcast:events:' .. job, position .. ' ' .. mark .. ' ' .. data)
  if mark ~= 'd' then
    call('XADD', 'pollcast:feed:' .. account, position .. '-0', 'e', job .. ' ' .. n)
  end
  return tell(table.concat({account, job, n, position, mark, now}, ' '), data)
end
