-- KEYS: as of the reservation. ARGV: id, what was spent, '1' if it was sent at all; then for each line the prefix of its
-- fields, the first and last slot that count, whether what expired stays spent ('s') or returned ('r'), the limit.
local hold = redis.call('HGET', holds, ARGV[1])
if not hold then return {} end
redis.call('HDEL', holds, ARGV[1])
redis.call('ZREM', ends, ARGV[1])
local state, amount = string.match(hold, '^([oe])(%d+);')
local answer = {}
for i = 3, #KEYS do
  local at = 4 + (i - 3) * 5
  local key, fields = KEYS[i], ARGV[at]
  if redis.call('EXISTS', key) == 1 then
    if state == 'o' then
      redis.call('HINCRBY', key, fields .. 'r', minus(amount))
    elseif ARGV[at + 3] == 's' then
      redis.call('HINCRBY', key, fields .. 's', minus(amount))
    else
      redis.call('HINCRBY', key, fields .. 'c', 1)
    end
    redis.call('HINCRBY', key, fields .. 's', ARGV[2])
    if ARGV[3] ~= '1' then redis.call('HINCRBY', key, fields .. 'c', -1) end
  end
  local spent, reserved, calls, shown, used_up = balance(key, ARGV[at + 1], ARGV[at + 2])
  local is_first = used_up == 0 and spent > 0 and spent >= number(ARGV[at + 4])
  if redis.call('EXISTS', key) == 1 then
    if spent > shown then redis.call('HSET', key, fields .. 'm', exact(spent)) end
    if is_first then redis.call('HSET', key, fields .. 'u', 1) end
  end
  for _, value in ipairs({spent, reserved, calls, shown, is_first and 1 or 0}) do answer[#answer + 1] = exact(value) end
end
return answer
