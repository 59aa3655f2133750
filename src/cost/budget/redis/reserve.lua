-- KEYS: holds, ends, and each line's account. ARGV: id, amount, milliseconds until it expires, the hold, milliseconds in
-- which what is answered is to be told; then for each line
-- the prefix of its fields, the first and last slot that count (both '' for one slot alone), the limit and the most calls
-- ('' where there is none), how long the account is kept ('' for good), the slot before which a slot is of no more use.
if redis.call('HEXISTS', holds, ARGV[1]) == 1 then return {} end
local amount = number(ARGV[2])
for i = 3, #KEYS do
  local at = 6 + (i - 3) * 7
  local limit, calls_at_most = ARGV[at + 3], ARGV[at + 4]
  if limit ~= '' or calls_at_most ~= '' then
    local spent, reserved, calls, _, used_up, untold = balance(KEYS[i], ARGV[at + 1], ARGV[at + 2])
    if (limit ~= '' and spent + reserved + amount > number(limit))
      or (calls_at_most ~= '' and calls >= number(calls_at_most)) then
      -- What an empty account would not have room for either says nothing about this one.
      if limit ~= '' and amount > number(limit) then
        return {exact(i - 3), exact(spent), exact(reserved), exact(calls), '0', '-1'}
      end
      local telling, is_first = number(ARGV[5]), used_up == 0
      local least, again, all = late(untold, spent, used_up, telling)
      if is_first then
        redis.call('HSET', KEYS[i], ARGV[at] .. 'u', 1)
        all = with(all, 'u', telling)
        if ARGV[at + 5] ~= '' then
          redis.call('PEXPIRE', KEYS[i], exact(math.max(number(ARGV[at + 5]), redis.call('PTTL', KEYS[i]))))
        end
      end
      if all ~= untold then note(KEYS[i], all) end
      local is_told = (is_first or again) and '1' or '0'
      return {exact(i - 3), exact(spent), exact(reserved), exact(calls), is_told, exact(least or -1)}
    end
  end
end
for i = 3, #KEYS do
  local at = 6 + (i - 3) * 7
  local key, fields, keep, old = KEYS[i], ARGV[at], ARGV[at + 5], number(ARGV[at + 6])
  redis.call('HINCRBY', key, fields .. 'r', ARGV[2])
  if redis.call('HINCRBY', key, fields .. 'c', 1) == 1 and fields ~= '' then
    -- A new slot of a rolling window: those that are long over go.
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local slot = string.match(field, '^(-?%d+)%a$')
      if slot and tonumber(slot) < old and number(redis.call('HGET', key, slot .. 'r')) == 0 then
        redis.call('HDEL', key, field)
      end
    end
  end
  if keep ~= '' then
    -- Never shorter than what was set aside may stay so.
    redis.call('PEXPIRE', key, exact(math.max(number(keep), number(ARGV[3]), redis.call('PTTL', key))))
  end
end
redis.call('HSET', holds, ARGV[1], ARGV[4])
redis.call('ZADD', ends, exact(now + number(ARGV[3])), ARGV[1])
return {}
