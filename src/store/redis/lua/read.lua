-- The text kept under a key and the milliseconds that it has left. None where there is no text, or one that never expires:
-- whatever that is, it was not put there by us.
local function read(key)
  local text = redis.pcall('GET', key)
  if type(text) == 'table' and text.err then
    if string.find(text.err, 'WRONGTYPE', 1, true) then
      return '', 0
    end
    redis.call('GET', key) -- It fails again, with a code that the client knows.
  end
  local left = text and redis.call('PTTL', key) or 0
  if left <= 0 then
    return '', 0
  end
  return text, left
end
