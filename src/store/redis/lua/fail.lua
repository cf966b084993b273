-- Gives the lease back after a failed fetch, and keeps the failure unless it lasts for 0 ms. KEYS: token, lease, failure. ARGV: owner,
-- failure, its time in ms, the text seen under `token` at the step.
local owns = read(KEYS[2]) == ARGV[1]
if owns then
  redis.call('DEL', KEYS[2])
end
local text, left = read(KEYS[1])
if left > 0 and text ~= ARGV[4] then
  return {'token', text, left}
end
if owns and tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
end
return {'done'}
