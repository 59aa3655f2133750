-- KEYS: holds, ends. ARGV: for each hold its id, and milliseconds from now until it expires.
for i = 1, #ARGV, 2 do
  local hold = redis.call('HGET', holds, ARGV[i])
  if hold and string.sub(hold, 1, 1) == 'o' then
    redis.call('ZADD', ends, exact(now + number(ARGV[i + 1])), ARGV[i])
    for _, _, key in lines(hold) do
      -- Never shorter than what was set aside may stay so.
      local left = redis.call('PTTL', key)
      if left >= 0 and left < number(ARGV[i + 1]) then redis.call('PEXPIRE', key, ARGV[i + 1]) end
    end
  end
end
return {}
