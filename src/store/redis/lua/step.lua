-- What a process that needs a token is to do next. KEYS: token, lease, failure. ARGV: owner, lease time in ms (0: take no lease), the text under
-- `token` that is of no use to it.
local text, left = read(KEYS[1])
if left > 0 and text ~= ARGV[3] then
  return {'token', text, left}
end
text, left = read(KEYS[3])
if left > 0 then
  return {'failure', text, left}
end
text, left = read(KEYS[2])
if left > 0 and text ~= ARGV[1] then
  return {'wait'}
end
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
return {'lease'}
