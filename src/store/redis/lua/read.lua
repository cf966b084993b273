-- The text kept under a key and the milliseconds that it has left. None where there is no text, or one that never expires:
-- whatever that is, it was not put there by us.
local function read(key)
  local text = redis.pcall('GET', key)
  if type(text) == 'table' and text.err then
    if string.find(text.err, 'WRONGTYPE', 1, true) then
      return '', 0
    end
    error(text.err, 0)
  end
  local left = text and redis.call('PTTL', key) or 0
  if left <= 0 then
    return '', 0
  end
  return text, left
end
