-- KEYS: holds, ends, and the account of each mark. ARGV: for each the amount, or 'u' for an account that is used up.
for i = 3, #KEYS do
  local untold = redis.call('HGET', KEYS[i], 'w')
  if untold then note(KEYS[i], without(untold, ARGV[i - 2])) end
end
return {}
