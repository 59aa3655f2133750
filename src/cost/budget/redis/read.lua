-- KEYS: holds, ends, and each account. ARGV: for each the first and last slot that count.
local answer = {}
for i = 3, #KEYS do
  local at = 1 + (i - 3) * 2
  local spent, reserved, calls = balance(KEYS[i], ARGV[at], ARGV[at + 1])
  for _, value in ipairs({spent, reserved, calls}) do answer[#answer + 1] = exact(value) end
end
return answer
