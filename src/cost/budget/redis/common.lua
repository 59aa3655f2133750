-- What every script begins with. Amounts stay the strings that they came as: Lua's numbers are doubles, exact up to 2^53,
-- which limits keep to, and HINCRBY counts with 64 bits. Time is the server's own: processes may differ, it does not.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holds, ends = KEYS[1], KEYS[2]
-- How long what expired can still be settled.
local LATE = 86400000

local function number(text)
  return tonumber(text or 0) or 0
end

-- Takes away what was added, unless the account was forgotten since and made anew: none is ever below nothing.
local function less(key, field, amount)
  if amount ~= '0' and number(redis.call('HGET', key, field)) >= number(amount) then
    redis.call('HINCRBY', key, field, '-' .. amount)
  end
end

-- A hold: 'o' for open or 'e' for expired, the amount, and of each line whether it stays spent ('s') or returns ('r'), the
-- prefix of its fields, and its key with its length before it.
local function lines(hold)
  local at = string.match(hold, '^[oe]%d+;()')
  return function()
    local way, fields, length, from = string.match(hold, '^([sr])([%d-]*):(%d+):()', at)
    if not way then return nil end
    at = from + length
    return way, fields, string.sub(hold, from, from + length - 1)
  end
end

local function expire(id, hold)
  -- First of all: one that fails half-way must not fail every script after it.
  redis.call('HSET', holds, id, 'e' .. string.sub(hold, 2))
  redis.call('ZADD', ends, now + LATE, id)
  local amount = string.match(hold, '^o(%d+);')
  for way, fields, key in lines(hold) do
    if redis.call('EXISTS', key) == 1 then
      less(key, fields .. 'r', amount)
      if way == 's' then
        redis.call('HINCRBY', key, fields .. 's', amount)
      else
        less(key, fields .. 'c', '1')
      end
    end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  local hold = redis.call('HGET', holds, id)
  if hold and string.sub(hold, 1, 1) == 'o' then
    expire(id, hold)
  else
    redis.call('HDEL', holds, id)
    redis.call('ZREM', ends, id)
  end
end

-- What counts of an account: spent, set aside, calls, the most that was shown as spent, 1 if it was found used up, and
-- what nobody has confirmed yet to have told. An account of one slot has plain fields; one of a rolling window has the slot
-- before each but the last.
local function balance(key, since, till)
  if since == '' then
    local found = redis.call('HMGET', key, 's', 'r', 'c', 'm', 'u', 'w')
    return number(found[1]), number(found[2]), number(found[3]), number(found[4]), number(found[5]), found[6] or ''
  end
  since, till = tonumber(since), tonumber(till)
  local spent, reserved, calls, shown, used_up, untold = 0, 0, 0, 0, 0, ''
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local slot, field = string.match(all[i], '^(-?%d+)(%a)$')
    slot = tonumber(slot)
    if all[i] == 'w' then untold = all[i + 1] end
    if slot and since <= slot and slot <= till then
      local value = tonumber(all[i + 1])
      if field == 's' then spent = spent + value
      elseif field == 'r' then reserved = reserved + value
      elseif field == 'c' then calls = calls + value
      elseif field == 'm' then shown = math.max(shown, value)
      else used_up = 1 end
    end
  end
  return spent, reserved, calls, shown, used_up, untold
end

local function exact(value)
  return string.format('%.0f', value)
end

-- Marks that were passed and that nobody has confirmed yet to have told: each amount, 'u' for an account that is used up,
-- and until when whoever was answered has time to. Of those that are late: the least one that is spent, and whether 'u' is
-- one; and all, where those that are told again have time again.
local function late(untold, spent, used_up, telling)
  local least, again, all = nil, false, {}
  for mark, till in string.gmatch(untold, '(%w+):(%d+)') do
    local amount = tonumber(mark)
    if tonumber(till) <= now and (amount or math.huge) <= spent then
      least, till = math.min(least or amount, amount), exact(now + telling)
    elseif tonumber(till) <= now and mark == 'u' and used_up == 1 then
      again, till = true, exact(now + telling)
    end
    all[#all + 1] = mark .. ':' .. till
  end
  return least, again, table.concat(all, ';')
end

-- The same without a mark, or with one more.
local function without(untold, gone)
  local left = {}
  for mark, till in string.gmatch(untold, '(%w+):(%d+)') do
    if mark ~= gone then left[#left + 1] = mark .. ':' .. till end
  end
  return table.concat(left, ';')
end

local function with(untold, mark, telling)
  return without(untold, mark) .. ';' .. mark .. ':' .. exact(now + telling)
end

local function note(key, untold)
  if untold == '' then redis.call('HDEL', key, 'w') else redis.call('HSET', key, 'w', untold) end
end
