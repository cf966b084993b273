-- Keeps a fetched token. One who has lost the lock may do so only while nobody else has. KEYS: token, lock, failure. ARGV: owner,
-- token, its time left in ms, the text seen under `token` at the step.
local owns = read(KEYS[2]) == ARGV[1]
local text, left = read(KEYS[1])
if left > 0 and text ~= ARGV[4] and not owns then
  return {'token', text, left}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
if owns then
  redis.call('DEL', KEYS[2])
end
return {'done'}
