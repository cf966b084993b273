-- Keeps a fetched token and gives the lease back, if this process still has it. Where another has it by now, that one's token will be newer; and where
-- another token is there than was seen, that one stays: who has waited too long for a lease may have fetched too. KEYS: token, lease,
-- failure. ARGV: owner, token, its time left in ms, the text seen under `token` at the step.
local owner, held = read(KEYS[2])
if owner == ARGV[1] then
  redis.call('DEL', KEYS[2])
elseif held > 0 then
  return {'wait'}
end
local text, left = read(KEYS[1])
if left > 0 and text ~= ARGV[4] then
  return {'token', text, left}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
return {'done'}
