-- Accounts, their keys, and grants of tokens.
--
-- Uses, from shared.lua: call, commands, move_tokens, DAY.

-- Return the value of `name`, which is the first that a node proposed.
function commands.get_or_set(name, value)
  call('HSETNX', 'pollcast:secrets', name, value)
  return call('HGET', 'pollcast:secrets', name)
end

function commands.value(name)
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

-- Add a key to the account `name`. If there is none, create it with the id `account` and a feed that begins at `base`.
function commands.create_key(key, digest, name, account, base, tokens, now)
  if call('EXISTS', 'pollcast:key:' .. key) == 0 then
    if call('HSETNX', 'pollcast:names', name, account) == 1 then
      call('HSET', 'pollcast:account:' .. account, 'name', name, 'tokens', 0, 'head', base, 'floor', base)
    end
    account = call('HGET', 'pollcast:names', name)
    call('HSET', 'pollcast:key:' .. key, 'account', account, 'created_at', now)
    call('HSET', 'pollcast:digests', digest, key)
    move_tokens(account, tokens, 'grant', '', now)
  end
  return read_key(key)
end

commands.key_by_id = read_key

function commands.key(digest)
  local key = call('HGET', 'pollcast:digests', digest)
  return key and read_key(key)
end

-- Return those of the keys that exist and are not revoked.
function commands.active_keys(...)
  local active = {}
  for _, key in ipairs({...}) do
    local account, revoked_at = unpack(call('HMGET', 'pollcast:key:' .. key, 'account', 'revoked_at'))
    if account and not revoked_at then
      table.insert(active, key)
    end
  end
  return active
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

-- Return {'unknown'}, {'short', balance} or {'done', account, balance}. `once` is the id of this grant.
function commands.grant(name, tokens, once, now)
  local account = call('HGET', 'pollcast:names', name)
  if not account then
    return {'unknown'}
  end
  local balance = call('HGET', 'pollcast:account:' .. account, 'tokens')
  local granted = 'pollcast:granted:' .. once
  if call('EXISTS', granted) == 0 then
    if tonumber(balance) + tonumber(tokens) < 0 then
      return {'short', balance}
    end
    move_tokens(account, tokens, 'grant', '', now)
    call('SET', granted, '', 'EX', DAY)
  end
  return {'done', account, call('HGET', 'pollcast:account:' .. account, 'tokens')}
end

-- The keys that every order needs, and their types. The keys of its own account come in addition.
local KEY_TYPES = {
  told = 'string', changes = 'stream', names = 'hash', digests = 'hash', secrets = 'hash', ended = 'zset',
  spent = 'zset', lines = 'set', moved = 'set', free = 'zset', nodes = 'hash', assets = 'zset',
}

-- Write something. Return the name of a key of the wrong type, if there is one, because orders would fail at it.
function commands.ping(now)
  call('SET', 'pollcast:ping', now)
  for name, type in pairs(KEY_TYPES) do
    local found = call('TYPE', 'pollcast:' .. name).ok
    if found ~= 'none' and found ~= type then
      return 'pollcast:' .. name
    end
  end
end
