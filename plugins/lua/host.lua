-- The Lua side of the lua plugin: it calls the script's callbacks; see interpreter.py.
--
-- A script may redefine anything in _G, so what is needed from there is kept in locals.

local path, machine, verbose, log_debug, want_shutdown = ...
local error, getmetatable, ipairs, pcall, tonumber, tostring, type =
    error, getmetatable, ipairs, pcall, tonumber, tostring, type
local math, string, table = math, string, table
local os_exit = os.exit

local EIO, EOPNOTSUPP = 5, 95
local READ_ONLY = 1
local NO_STATUS = -1
local FACTS = {"is_rotational", "can_multi_conn", "can_write", "can_flush", "can_trim", "can_zero",
    "can_fast_zero", "can_extents"}
local PLAIN = {"dump_plugin", "config_complete", "get_ready", "unload", "after_fork", "cleanup"}
local CALLBACKS = {"config", "thread_model", "preconnect", "list_exports", "default_export", "open",
    "close", "get_size", "export_description", "block_size", "can_fua", "can_cache", "pread",
    "pwrite", "flush", "trim", "zero", "cache", "extents", table.unpack(PLAIN)}
table.move(FACTS, 1, #FACTS, #CALLBACKS + 1, CALLBACKS)

local handles, exports = {}, {}     -- by handle number: what open returned, and the export's name
local export_name                   -- of the client whose request is being carried out
local errno = 0                     -- what the callback has set with nbdkit.set_error
local exit = setmetatable({}, {__tostring = function(self)
    return "the script called os.exit(" .. self.status .. ")"
end})

-- Distributions keep Lua modules in these directories.  lupa's own module is not for scripts.
local version = _VERSION:match("[%d.]+")
local function search(key, directories)
    for _, directory in ipairs(directories) do
        package[key] = package[key] .. ";" .. directory:gsub("V", version)
    end
end
search("path", {"/usr/share/lua/V/?.lua", "/usr/share/lua/V/?/init.lua"})
search("cpath", {"/usr/lib/" .. machine .. "/lua/V/?.so", "/usr/lib64/lua/V/?.so",
    "/usr/lib/lua/V/?.so"})
python, package.loaded.python = nil, nil

-- What is offered to scripts --------------------------------------------------------------------

nbdkit = {
    FLAG_MAY_TRIM = 1, FLAG_FUA = 2, FLAG_REQ_ONE = 4, FLAG_FAST_ZERO = 8,
    FUA_NONE = 0, FUA_EMULATE = 1, FUA_NATIVE = 2,
    CACHE_NONE = 0, CACHE_EMULATE = 1, CACHE_NATIVE = 2,
    EXTENT_HOLE = 1, EXTENT_ZERO = 2,
    THREAD_MODEL_SERIALIZE_CONNECTIONS = 0, THREAD_MODEL_SERIALIZE_ALL_REQUESTS = 1,
    THREAD_MODEL_SERIALIZE_REQUESTS = 2, THREAD_MODEL_PARALLEL = 3,
}

function nbdkit.set_error(code)
    errno = math.tointeger(code) or error("not an errno: " .. tostring(code), 2)
end

function nbdkit.debug(text)
    if verbose then log_debug(tostring(text)) end
end

function nbdkit.shutdown() want_shutdown() end

function nbdkit.export_name()
    return export_name or error("no client has chosen an export here", 2)
end

local POWERS = {[""] = 0, b = 0, s = 9, k = 10, m = 20, g = 30, t = 40, p = 50, e = 60}

function nbdkit.parse_size(text)
    local base, digits, unit = 16, text:match("^%s*%+?0[xX](%x+)(%a?)$")
    if not digits then
        digits, unit = text:match("^%s*%+?(%d+)(%a?)$")
        base = digits and digits:find("^0") and 8 or 10
    end
    local power = unit and POWERS[unit:lower()]
    if not power or base == 8 and digits:find("[89]") then
        error("not a size: '" .. text .. "'", 2)
    end
    digits = digits:gsub("^0+(.)", "%1")
    -- More digits than these would not be noticed to be too many.
    local fits = base == 10 or #digits <= (base == 8 and 20 or 15)
    local number = fits and math.tointeger(tonumber(digits, base ~= 10 and base or nil))
    if not number or number > math.maxinteger >> power then
        error("too large a size: '" .. text .. "'", 2)
    end
    return number << power
end

local TRUTHS = {["1"] = true, ["true"] = true, t = true, yes = true, y = true, on = true,
    ["0"] = false, ["false"] = false, f = false, no = false, n = false, off = false}

function nbdkit.parse_bool(text)
    local value = TRUTHS[text:lower()]
    if value == nil then error("not a truth value: '" .. text .. "'", 2) end
    return value
end

-- A real exit would end the process, with all its clients.
function os.exit(code)
    exit.status = (code == nil or code == true) and 0 or math.tointeger(code) or 1
    error(exit)
end

-- Callbacks ---------------------------------------------------------------------------------------

local function call(name, ...)
    return (_G[name] or error("the script has no " .. name, 0))(...)
end

local function call_if_there(name, ...)
    if _G[name] then call(name, ...) end
end

local function number_from(name, ...)
    local value = call(name, ...)
    return math.tointeger(tonumber(value)) or error(name .. ": return value is not an integer", 0)
end

local function string_from(name, ...)
    local value = call(name, ...)
    return type(value) == "string" and value or error(name .. ": return value is not a string", 0)
end

local function list_from(name, ...)
    local value = call(name, ...)
    return type(value) == "table" and value or error(name .. ": return value is not a table", 0)
end

local function is(flags, flag) return flags & flag ~= 0 end

-- What each operation does.  The arguments are handle, payload, flags, count, offset and the number
-- of the handle; it returns the reply's value, or false and the reply's payload.
local operation = {}

function operation.load()
    io.stdout:setvbuf("line")
    local script, reason = loadfile(path)
    if not script then error(reason, 0) end
    script()
    local has = {}
    for _, name in ipairs(CALLBACKS) do
        if type(_G[name]) == "function" then has[#has + 1] = name end
    end
    return false, "callbacks=" .. table.concat(has, " ")
        .. "\none_process=" .. (NBDFORK_PROCESSES and "no" or "yes")
        .. "\nlua_version=" .. version
end

function operation.config(_, data)
    call("config", data:match("^(.-)\0(.*)$"))
end

function operation.thread_model() return number_from("thread_model") end

function operation.preconnect(_, _, flags) call("preconnect", is(flags, READ_ONLY)) end

function operation.list_exports(_, _, flags)
    local fields = {}
    for _, export in ipairs(list_from("list_exports", is(flags, READ_ONLY))) do
        local name, description = export, ""
        if type(export) == "table" then name, description = export[1], export[2] or "" end
        fields[#fields + 1] = name .. "\0" .. description .. "\0"
    end
    return false, table.concat(fields)
end

function operation.default_export(_, _, flags)
    return false, string_from("default_export", is(flags, READ_ONLY))
end

function operation.open(_, data, flags, _, _, number)
    export_name = data
    local handle = call("open", is(flags, READ_ONLY))
    if handle == nil then error("open returned nothing", 0) end
    handles[number], exports[number] = handle, data
end

function operation.close(handle, _, _, _, _, number)
    handles[number], exports[number] = nil, nil
    call_if_there("close", handle)
end

function operation.export_description(handle)
    return false, string_from("export_description", handle)
end

function operation.block_size(handle)
    return false, string.pack(">I8I8I8", table.unpack(list_from("block_size", handle), 1, 3))
end

function operation.pread(handle, _, flags, count, offset)
    local data = string_from("pread", handle, count, offset, flags)
    if #data < count then error("pread: returned string length < count bytes", 0) end
    return false, #data > count and data:sub(1, count) or data
end

function operation.pwrite(handle, data, flags, _, offset)
    call("pwrite", handle, data, offset, flags)
end

function operation.flush(handle, _, flags) call("flush", handle, flags) end

function operation.zero(handle, _, flags, count, offset)
    call("zero", handle, count, offset, is(flags, nbdkit.FLAG_MAY_TRIM), flags)
    if errno == EOPNOTSUPP then error("the script asks for zeroes to be written", 0) end
end

function operation.extents(handle, _, flags, count, offset)
    local packed = {}
    for _, extent in ipairs(list_from("extents", handle, count, offset, flags)) do
        packed[#packed + 1] = string.pack(">I8I8I4", table.unpack(extent, 1, 3))
    end
    return false, table.concat(packed)
end

for _, name in ipairs {"trim", "cache"} do
    operation[name] = function(handle, _, flags, count, offset)
        call(name, handle, count, offset, flags)
    end
end

for _, name in ipairs {"get_size", "can_fua", "can_cache"} do
    operation[name] = function(handle) return number_from(name, handle) end
end

for _, name in ipairs(FACTS) do
    operation[name] = function(handle)
        local value = call(name, handle)
        if type(value) ~= "boolean" then error(name .. ": return value is not a boolean", 0) end
        return value and 1 or 0
    end
end

for _, name in ipairs(PLAIN) do
    operation[name] = function() call_if_there(name) end
end

-- Requests ----------------------------------------------------------------------------------------

-- Lua shortens long file names in its messages.
local short_path = debug.getinfo(load("", "@" .. path), "S").short_src .. ":"

local function text_of(failure)
    if type(failure) ~= "string" then
        local has_text = getmetatable(failure) and getmetatable(failure).__tostring
        return has_text and tostring(failure) or "(error object is a " .. type(failure) .. " value)"
    end
    if failure:sub(1, #short_path) == short_path then
        failure = path .. ":" .. failure:sub(#short_path + 1)
    end
    return failure
end

-- Carry out a request.  Return 0, value and payload; or an errno, an exit status, and a message.
local function perform(name, number, data, flags, count, offset)
    errno, export_name = 0, exports[number]
    local is_done, value, payload =
        pcall(operation[name], handles[number], data, flags, count, offset, number)
    if is_done then return 0, value or 0, payload or "" end
    local status = value == exit and exit.status or NO_STATUS
    return errno ~= 0 and errno or EIO, status, text_of(value)
end

return perform, os_exit
