-- Accounts, their keys, and the grants of tokens.

function commands.agree(name, value)
  call('HSETNX', 'pollcast:secrets', name, value)
  return call('HGET', 'pollcast:secrets', name)
end

local function read_key(key)
  local account, created_at, revoked_at =
    unpack(call('HMGET', 'pollcast:key:' .. key, 'account', 'created_at', 'revoked_at'))
  if not account then
    return false
  end
  return {key, account, call('HGET', 'pollcast:account:' .. account, 'name'), created_at, revoked_at}
end

-- `account` and `base`, where its feed begins, are for an account that does not exist yet.
function commands.create_key(key, digest, name, account, base, tokens, now)
  if call('EXISTS', 'pollcast:key:' .. key) == 0 then
    if call('HSETNX', 'pollcast:names', name, account) == 1 then
      call('HSET', 'pollcast:account:' .. account, 'name', name, 'tokens', 0, 'head', base, 'floor', base)
    end
    account = call('HGET', 'pollcast:names', name)
    call('HSET', 'pollcast:key:' .. key, 'account', account, 'created_at', now)
    call('HSET', 'pollcast:digests', digest, key)
    enter(account, tokens, 'grant', '', now)
  end
  return read_key(key)
end

commands.key = read_key

function commands.key_of(digest)
  local key = call('HGET', 'pollcast:digests', digest)
  return key and read_key(key)
end

function commands.good_keys(...)
  local good = {}
  for _, key in ipairs({...}) do
    local account, revoked_at = unpack(call('HMGET', 'pollcast:key:' .. key, 'account', 'revoked_at'))
    if account and not revoked_at then
      table.insert(good, key)
    end
  end
  return good
end

function commands.keys()
  local found = {}
  for _, key in ipairs(call('HVALS', 'pollcast:digests')) do
    table.insert(found, read_key(key))
  end
  return found
end

function commands.revoke_key(key, now)
  if call('EXISTS', 'pollcast:key:' .. key) == 1 then
    call('HSETNX', 'pollcast:key:' .. key, 'revoked_at', now)
  end
  return read_key(key)
end

function commands.accounts()
  local found = {}
  for _, account in ipairs(call('HVALS', 'pollcast:names')) do
    local name, tokens = unpack(call('HMGET', 'pollcast:account:' .. account, 'name', 'tokens'))
    table.insert(found, {account, name, tokens})
  end
  return found
end

-- `once` is this grant's own name.
function commands.grant(name, tokens, once, now)
  local account = call('HGET', 'pollcast:names', name)
  if not account then
    return {'nobody'}
  end
  local balance = call('HGET', 'pollcast:account:' .. account, 'tokens')
  local granted = 'pollcast:granted:' .. once
  if call('EXISTS', granted) == 0 then
    if tonumber(balance) + tonumber(tokens) < 0 then
      return {'short', balance}
    end
    enter(account, tokens, 'grant', '', now)
    call('SET', granted, '', 'EX', DAY)
  end
  return {'done', account, call('HGET', 'pollcast:account:' .. account, 'tokens')}
end

-- What an order needs beside its own account's keys, and the type of each.
local NEEDED = {
  told = 'string', changes = 'stream', names = 'hash', digests = 'hash', secrets = 'hash', ended = 'zset', spent = 'zset',
  lines = 'set', moved = 'set', free = 'zset', nodes = 'hash', assets = 'zset',
}

-- Write, and answer the name of a key that is of another type than an order needs, if there is one.
function commands.ping(now)
  call('SET', 'pollcast:ping', now)
  for name, type in pairs(NEEDED) do
    local found = call('TYPE', 'pollcast:' .. name).ok
    if found ~= 'none' and found ~= type then
      return 'pollcast:' .. name
    end
  end
end
