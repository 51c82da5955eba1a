-- The globals of scripts, out of the safe functions of the library and ours.
--
-- Every table that scripts share is seen through a frozen one: an empty table whose metatable reads
-- from the real one and refuses writes. An error that Rust raises is a userdata; `describe` makes of
-- it a value as the library of Lua raises it, and raises again what stops the script, so that no
-- script catches its stop.
local ours, describe, blame, loadtext, changemeta = ...

local error, type, tostring = error, type, tostring
local setmetatable, rawset, pcall, xpcall = setmetatable, rawset, pcall, xpcall
local select, getmetatable, tonumber, unpack = select, getmetatable, tonumber, unpack
local insert, remove, sort = table.insert, table.remove, table.sort
local frozen = setmetatable({}, { __mode = 'k' })

local function refuse()
  error('Attempt to modify a readonly table', 2)
end

local function freeze(real)
  local proxy = {}
  frozen[proxy] = true
  return setmetatable(proxy, { __index = real, __newindex = refuse, __metatable = false, __frozen = true })
end

local globals = {
  _VERSION = _VERSION, assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs,
  next = next, pairs = pairs, rawequal = rawequal, rawget = rawget, select = select,
  setmetatable = changemeta, tonumber = tonumber, tostring = tostring, type = type,
}

function globals.rawset(table, key, value)
  if frozen[table] then error('Attempt to modify a readonly table', 0) end
  return rawset(table, key, value)
end

-- The errors of a function of the library, with the place of its call.
local function bad(at, name, wanted, count, value)
  local got = at > count and 'no value' or type(value)
  error('bad argument #' .. at .. " to '" .. name .. "' (" .. wanted .. ' expected, got ' .. got .. ')', 3)
end

-- The library's own `unpack` computes the count in 32 bits: where it overflows, it writes past the
-- stack. It is only called with a range that lies on the stack.
function globals.unpack(...)
  local list, first, last = ...
  local count = select('#', ...)
  if type(list) ~= 'table' then bad(1, 'unpack', 'table', count, list) end
  local from = first == nil and 1 or tonumber(first)
  if not from then bad(2, 'unpack', 'number', count, first) end
  local to = last == nil and #list or tonumber(last)
  if not to then bad(3, 'unpack', 'number', count, last) end
  if to < from then return end
  if not (from > -2147483648 and to < 2147483647 and to - from < 7900) then
    error('too many results to unpack', 2)
  end
  return unpack(list, from, to)
end

-- The functions of `table` write without metamethods, so that they would write into a frozen table, and
-- each is one instruction, however long it takes.
local lists = {}

function lists.insert(...)
  local list, at = ...
  local count = select('#', ...)
  if type(list) ~= 'table' then bad(1, 'insert', 'table', count, list) end
  if frozen[list] then error('Attempt to modify a readonly table', 0) end
  if count ~= 2 and count ~= 3 then error("wrong number of arguments to 'insert'", 2) end
  if count == 3 then
    local place = tonumber(at)
    if not place then bad(2, 'insert', 'number', count, at) end
    -- It moves all elements from there on.
    if not (place > -1000000 and place < 2147483647) then error("bad argument #2 to 'insert' (position out of bounds)", 2) end
  end
  return insert(...)
end

function lists.remove(...)
  local list, at = ...
  local count = select('#', ...)
  if type(list) ~= 'table' then bad(1, 'remove', 'table', count, list) end
  if frozen[list] then error('Attempt to modify a readonly table', 0) end
  if at ~= nil and not tonumber(at) then bad(2, 'remove', 'number', count, at) end
  return remove(...)
end

-- The order of elements without a function: one of the script's own instructions for each comparison,
-- so that the clock is looked at. Its errors have no place, as in the library.
local function less(a, b)
  local kind, other = type(a), type(b)
  if kind == other and (kind == 'number' or kind == 'string') then return a < b end
  if kind == other and kind == 'table' and getmetatable(a) ~= nil then return a < b end
  if kind == other then error('attempt to compare two ' .. kind .. ' values', 0) end
  error('attempt to compare ' .. kind .. ' with ' .. other, 0)
end

function lists.sort(...)
  local list, order = ...
  local count = select('#', ...)
  if type(list) ~= 'table' then bad(1, 'sort', 'table', count, list) end
  if frozen[list] then error('Attempt to modify a readonly table', 0) end
  if order ~= nil and type(order) ~= 'function' then bad(2, 'sort', 'function', count, order) end
  return sort(list, order or less)
end

local function settle(ok, ...)
  if ok then return true, ... end
  return false, describe((...))
end

function globals.pcall(...)
  if select('#', ...) == 0 then error("bad argument #1 to 'pcall' (value expected)", 2) end
  return settle(pcall(...))
end

function globals.xpcall(work, handler)
  return settle(xpcall(work, function(problem) return handler(describe(problem)) end))
end

local env = freeze(globals)
globals._G = env

-- Like luaL_loadstring: a function, or nil and the problem.
function globals.loadstring(text, name)
  return loadtext(text, name, env)
end

function globals.load(reader, name)
  local parts, count = {}, 0
  while true do
    local part = reader()
    if part == nil or part == '' then break end
    if type(part) ~= 'string' then return nil, 'reader function must return a string' end
    count = count + 1
    parts[count] = part
  end
  return loadtext(table.concat(parts), name or '=(load)', env)
end

-- The library's own string table is what methods of strings look in.
string.dump, string.gfind = nil, nil
for name, functions in pairs(ours) do
  local real = _G[name]
  if type(real) ~= 'table' then real = {} end
  for key, value in pairs(functions) do real[key] = value end
  ours[name] = real
end
for _, name in ipairs { 'string', 'table', 'math' } do ours[name] = ours[name] or _G[name] end
for name, work in pairs(lists) do ours.table[name] = work end
for name, real in pairs(ours) do globals[name] = freeze(real) end
globals.server = globals.redis
getmetatable('').__metatable = freeze({ __index = globals.string })

setmetatable(globals, { __index = function(_, name)
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end })

local function protect(work)
  return xpcall(work, blame)
end

return env, globals, ours.redis, protect
