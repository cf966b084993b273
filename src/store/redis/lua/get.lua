-- The token. KEYS: token.
local text, left = read(KEYS[1])
if left > 0 then
  return {'token', text, left}
end
return {'none'}
