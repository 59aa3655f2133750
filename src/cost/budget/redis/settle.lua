-- KEYS: holds, ends, and each line's account. ARGV: id, what was spent, '1' if it was sent at all, milliseconds in which what
-- is answered is to be told; then for each line the prefix of its fields, the first and last slot that count, the limit, and
-- the marks by whose passing somebody is told, with commas between.
local hold = redis.call('HGET', holds, ARGV[1])
if not hold then return {} end
redis.call('HDEL', holds, ARGV[1])
redis.call('ZREM', ends, ARGV[1])
local state, amount = string.match(hold, '^([oe])(%d+);')
-- Where it was set aside, whatever is asked for now: a batch is settled days later.
for way, fields, key in lines(hold) do
  if redis.call('EXISTS', key) == 1 then
    if state == 'o' then
      less(key, fields .. 'r', amount)
    elseif way == 's' then
      less(key, fields .. 's', amount)
    else
      redis.call('HINCRBY', key, fields .. 'c', 1)
    end
    redis.call('HINCRBY', key, fields .. 's', ARGV[2])
    if ARGV[3] ~= '1' then less(key, fields .. 'c', '1') end
  end
end
local answer, telling = {}, number(ARGV[4])
for i = 3, #KEYS do
  local at = 5 + (i - 3) * 5
  local key, fields = KEYS[i], ARGV[at]
  local spent, reserved, calls, shown, used_up, untold = balance(key, ARGV[at + 1], ARGV[at + 2])
  local is_first = used_up == 0 and spent > 0 and spent >= number(ARGV[at + 3])
  local least, again, all = late(untold, spent, used_up, telling)
  if redis.call('EXISTS', key) == 1 then
    if spent > shown then
      redis.call('HSET', key, fields .. 'm', exact(spent))
      for mark in string.gmatch(ARGV[at + 4], '%d+') do
        if shown < number(mark) and number(mark) <= spent then all = with(all, mark, telling) end
      end
    end
    if is_first then
      redis.call('HSET', key, fields .. 'u', 1)
      all = with(all, 'u', telling)
    end
    if all ~= untold then note(key, all) end
  end
  local is_told = (is_first or again) and 1 or 0
  for _, value in ipairs({spent, reserved, calls, shown, is_told, least or -1}) do answer[#answer + 1] = exact(value) end
end
return answer
