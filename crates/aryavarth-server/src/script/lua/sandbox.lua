-- The globals of scripts, out of the safe functions of the library and ours.
--
-- Every table that scripts share is seen through a frozen one: an empty table whose metatable reads
-- from the real one and refuses writes. An error that Rust raises is a userdata; `describe` makes of
-- it a value as the library of Lua raises it, and raises again what stops the script, so that no
-- script catches its stop.
local ours, describe, blame, loadtext, changemeta = ...

local error, type, tostring = error, type, tostring
local setmetatable, rawset, pcall, xpcall = setmetatable, rawset, pcall, xpcall
local select, getmetatable = select, getmetatable
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
  setmetatable = changemeta, tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
}

function globals.rawset(table, key, value)
  if frozen[table] then error('Attempt to modify a readonly table', 0) end
  return rawset(table, key, value)
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
